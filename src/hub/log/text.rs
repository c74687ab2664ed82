//! Bytes as they stand in a file: objects as text, frames in base64.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

pub(super) fn serialize<S: Serializer>(text: &impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    std::str::from_utf8(text.as_ref()).map_err(S::Error::custom)?.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(deserializer: D) -> Result<T, D::Error> {
    Ok(String::deserialize(deserializer)?.into_bytes().into())
}

pub(super) fn serialize_frame<S: Serializer>(frame: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    BASE64.encode(frame).serialize(serializer)
}

pub(super) fn deserialize_frame<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
}

pub(super) fn serialize_option<S: Serializer>(text: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().map(String::from_utf8_lossy).serialize(serializer)
}

pub(super) fn deserialize_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Bytes::from))
}
