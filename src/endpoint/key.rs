//! The `key` of a handshake: identifies the page, and the position of the log at its handshake.
//!
//! The client puts the key unescaped into the socket's address, at every (re)connect, in place of its token. So the key
//! holds only `A-Z a-z 0-9 - _ . ~` (a `#` would make the page's constructor throw).
//!
//! Plain form, which holds the token: `lu1.` token (base64url) `.` session id `.` epoch `.` position.
//!
//! Sealed form, which holds the principal: `lu2.` payload (base64url) `.` tag (base64url), where the payload is
//! session id `.` epoch `.` position `.` expiry (seconds since 1970) `.` principal, and the tag is the HMAC-SHA256 of
//! the endpoint's path, a line feed, and the key up to the tag.
//!
//! The position is 16 hexadecimal digits: the sequence number, masked by a keyed hash of the session id. The secret of the
//! hash belongs to the epoch. So two keys do not show how much was written between them, also by other tenants. A process
//! with another epoch reads another number, and does not use it.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;

#[cfg(feature = "sealed-keys")]
pub(crate) use self::seal::Seal;
use crate::{
    auth::{Identity, OwnedCredentials},
    epoch::{Position, Secret},
    expiry::Expiry,
    sequence::Sequence,
};

/// Longer keys are neither made nor read; the token is then used as it is.
const MAX_LENGTH: usize = 8 * 1024;
const PLAIN: &str = "lu1.";
const SEALED: &str = "lu2.";

/// The page and the position of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageKey {
    /// The session id.
    pub(crate) session: String,
    /// The first record that the page may have missed.
    pub(crate) position: Position,
}

/// What a page has presented: its credentials, and its page key if they came in a key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PresentedKey {
    pub(crate) credentials: OwnedCredentials,
    pub(crate) page: Option<PageKey>,
    /// When a sealed key expires.
    pub(crate) expires: Option<Expiry>,
}

impl PresentedKey {
    fn token(token: String, page: Option<PageKey>) -> Self {
        Self { credentials: OwnedCredentials::Token(token), page, expires: None }
    }

    /// True for an expired sealed key.
    pub(crate) fn is_expired(&self) -> bool {
        self.expires.is_some_and(Expiry::is_over)
    }
}

/// Makes and reads the keys of one endpoint: sealed keys if it has a seal, and plain keys always.
pub(crate) struct Keys {
    seal: Option<Seal>,
    lifetime: Duration,
    /// Masks the sequence numbers.
    positions: Secret,
}

impl Keys {
    pub(crate) fn new(seal: Option<Seal>, path: &str, lifetime: Duration, positions: Secret) -> Self {
        Self { seal: seal.map(|seal| seal.bound_to(path)), lifetime, positions }
    }

    /// Whether keys are sealed.
    pub(crate) fn are_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// A key for a page that presented this at its handshake; `identity` is `None` if authentication was unavailable. `None`
    /// if the token is too long for a key.
    pub(crate) fn make(&self, presented: &PresentedKey, identity: Option<&Identity>, page: &PageKey) -> Option<String> {
        let principal = identity.map(Identity::principal);
        let (token, principal) = match &presented.credentials {
            OwnedCredentials::Token(token) => (Some(token), principal),
            OwnedCredentials::Principal(known) => (None, principal.or(Some(known))),
        };
        // A key that replaces a key expires no later: otherwise the holder of one could renew it for ever.
        let bounds = presented.expires.into_iter().chain(identity.and_then(Identity::expiry).map(Expiry::at));
        let expires = bounds.fold(Expiry::after(self.lifetime), Expiry::min);
        let sealed = self.seal.as_ref().zip(principal);
        sealed
            .and_then(|(seal, principal)| self.make_sealed(seal, principal, page, expires))
            // Without a key the page's address would hold the plain token.
            .or_else(|| self.make_plain(token?, page))
    }

    /// Reads what a page presents: a key, or its token.
    pub(crate) fn read(&self, presented: String) -> PresentedKey {
        let sealed = self.seal.as_ref().and_then(|seal| self.parse_sealed(seal, &presented));
        sealed.or_else(|| self.parse_plain(&presented)).unwrap_or_else(|| PresentedKey::token(presented, None))
    }

    /// The page as text; its sequence number masked. The mask differs for each session, so that the positions of two keys
    /// cannot be compared.
    fn encode(&self, PageKey { session, position }: &PageKey) -> String {
        let masked = position.sequence.0 ^ self.positions.hash(0, session);
        format!("{session}.{}.{masked:016x}", position.epoch)
    }

    /// The page of a key. A tampered position decodes to another number, perhaps beyond the end of the log.
    fn decode(&self, session: &str, epoch: &str, masked: &str) -> Option<PageKey> {
        let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex(session, 32) || !is_hex(epoch, 32) || !is_hex(masked, 16) {
            return None;
        }
        let sequence = Sequence(u64::from_str_radix(masked, 16).ok()? ^ self.positions.hash(0, session));
        Some(PageKey { session: session.to_owned(), position: Position { epoch: epoch.to_owned(), sequence } })
    }

    fn make_plain(&self, token: &str, page: &PageKey) -> Option<String> {
        let token = BASE64URL_NOPAD.encode(token.as_bytes());
        within_bounds(format!("{PLAIN}{token}.{}", self.encode(page)))
    }

    fn make_sealed(&self, seal: &Seal, principal: &str, page: &PageKey, expires: Expiry) -> Option<String> {
        let payload = format!("{}.{}.{principal}", self.encode(page), expires.seconds());
        let signed = format!("{SEALED}{}", BASE64URL_NOPAD.encode(payload.as_bytes()));
        let tag = BASE64URL_NOPAD.encode(&seal.tag(&signed));
        within_bounds(format!("{signed}.{tag}"))
    }

    /// The content of a plain key; `None` if this is no key, or a tampered one: then it counts as a token, and a wrong one.
    fn parse_plain(&self, key: &str) -> Option<PresentedKey> {
        let rest = key.strip_prefix(PLAIN).filter(|_| key.len() <= MAX_LENGTH)?;
        let mut parts = rest.split('.');
        let token = parts.next()?;
        let page = self.decode(parts.next()?, parts.next()?, parts.next()?).filter(|_| parts.next().is_none())?;
        Some(PresentedKey::token(text(token)?, Some(page)))
    }

    /// As `parse_plain`, for a sealed key. Expiry is not checked here.
    fn parse_sealed(&self, seal: &Seal, key: &str) -> Option<PresentedKey> {
        let (signed, tag) = key.rsplit_once('.').filter(|_| key.len() <= MAX_LENGTH)?;
        let payload = signed.strip_prefix(SEALED)?;
        if !seal.verifies(signed, &BASE64URL_NOPAD.decode(tag.as_bytes()).ok()?) {
            return None;
        }
        let payload = text(payload)?;
        let mut parts = payload.splitn(5, '.');
        let page = self.decode(parts.next()?, parts.next()?, parts.next()?)?;
        let expires = Expiry::at_second(parts.next()?.parse().ok()?);
        let credentials = OwnedCredentials::Principal(parts.next()?.to_owned());
        Some(PresentedKey { credentials, page: Some(page), expires: Some(expires) })
    }
}

fn within_bounds(key: String) -> Option<String> {
    (key.len() <= MAX_LENGTH).then_some(key)
}

fn text(base64: &str) -> Option<String> {
    String::from_utf8(BASE64URL_NOPAD.decode(base64.as_bytes()).ok()?).ok()
}

#[cfg(feature = "sealed-keys")]
mod seal {
    use std::fmt;

    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;

    use crate::error::ConfigError;

    /// As long as the tag: a shorter secret would be easier to guess than that.
    const MIN_SECRET: usize = 32;

    /// The secrets that sign keys, kept as HMAC states only.
    pub(crate) struct Seal {
        signing: Hmac<Sha256>,
        /// For the secrets that signed before.
        verifying: Vec<Hmac<Sha256>>,
    }

    impl Seal {
        /// The first secret signs, all of them verify.
        pub(crate) fn new<T: AsRef<[u8]>>(secrets: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
            let mut macs = secrets.into_iter().map(|secret| {
                let secret = Some(secret.as_ref()).filter(|secret| secret.len() >= MIN_SECRET);
                secret.and_then(|secret| Hmac::new_from_slice(secret).ok()).ok_or(ConfigError::SealedKeySecret)
            });
            let signing = macs.next().unwrap_or(Err(ConfigError::SealedKeySecret))?;
            Ok(Self { signing, verifying: macs.collect::<Result<_, _>>()? })
        }

        /// For keys of one endpoint: the principals of another endpoint with the same secrets are other users.
        pub(super) fn bound_to(mut self, path: &str) -> Self {
            for mac in std::iter::once(&mut self.signing).chain(&mut self.verifying) {
                mac.update(path.as_bytes());
                mac.update(b"\n");
            }
            self
        }

        pub(super) fn tag(&self, text: &str) -> [u8; 32] {
            self.signing.clone().chain_update(text).finalize().into_bytes().into()
        }

        /// Whether one of the secrets has made this tag. The comparison takes constant time.
        pub(super) fn verifies(&self, text: &str, tag: &[u8]) -> bool {
            let mut macs = std::iter::once(&self.signing).chain(&self.verifying);
            macs.any(|mac| mac.clone().chain_update(text).verify_slice(tag).is_ok())
        }
    }

    impl fmt::Debug for Seal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Seal")
        }
    }
}

/// Without the feature there is no way to make one.
#[cfg(not(feature = "sealed-keys"))]
#[derive(Debug)]
pub(crate) enum Seal {}

#[cfg(not(feature = "sealed-keys"))]
impl Seal {
    fn bound_to(self, _path: &str) -> Self {
        match self {}
    }

    fn tag(&self, _text: &str) -> [u8; 32] {
        match *self {}
    }

    fn verifies(&self, _text: &str, _tag: &[u8]) -> bool {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";
    const POSITION: &str = "0123456789abcdef";

    fn plain() -> Keys {
        Keys::new(None, "/api/v1", Duration::ZERO, Secret::new())
    }

    fn page(sequence: u64) -> PageKey {
        PageKey { session: ID.to_owned(), position: Position { epoch: ID.to_owned(), sequence: Sequence(sequence) } }
    }

    fn has_safe_characters(key: &str) -> bool {
        key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    }

    #[test]
    fn oversized_tokens_get_no_key() {
        assert_eq!(plain().make_plain(&"x".repeat(7000), &page(1)), None);
        assert_eq!(plain().parse_plain(&format!("{PLAIN}{}.{ID}.{ID}.{POSITION}", "A".repeat(9000))), None);
    }

    #[test]
    fn malformed_keys_are_refused() {
        let keys = plain();
        let good = keys.make_plain("demo", &page(5)).unwrap();
        let (start, position) = good.rsplit_once('.').unwrap();
        for bad in [
            String::new(),
            "demo".into(),
            "lu1.".into(),
            "lu1....".into(),
            good.replace("lu1", "lu2"),
            format!("{good}.6"),
            format!("{start}.-{}", &position[1..]),
            format!("{start}.+{}", &position[1..]),
            format!("{start}.5"),
            format!("{start}.{position}0"),
            format!("{start}.{}", "g".repeat(16)),
            good.replace(ID, "xyz"),
            good.replacen('Z', "*", 1),
        ] {
            assert_eq!(keys.parse_plain(&bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_do_not_show_how_much_was_written_between_them() {
        let keys = plain();
        let of = |session: &str, sequence| {
            let page = PageKey { session: session.to_owned(), ..page(sequence) };
            let key = keys.make_plain("demo", &page).unwrap();
            assert_eq!(keys.parse_plain(&key).unwrap().page, Some(page));
            u64::from_str_radix(key.rsplit_once('.').unwrap().1, 16).unwrap()
        };
        let other = ID.replace('0', "1");
        for sequence in [0, 1, 1000] {
            assert_ne!(of(ID, sequence), sequence);
            assert_ne!(of(ID, sequence) ^ of(&other, sequence), 0, "the same sequence number looks different");
            assert_ne!(of(ID, sequence).abs_diff(of(&other, sequence + 5)), 5);
        }
    }

    #[test]
    fn another_epoch_reads_another_number() {
        let key = plain().make_plain("demo", &page(5)).unwrap();
        let read = plain().parse_plain(&key).unwrap().page.unwrap();
        assert_ne!(read.position.sequence, Sequence(5));
        assert_eq!(read, page(read.position.sequence.0), "and the session and epoch as they are");
    }

    impl std::fmt::Debug for PresentedKey {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("PresentedKey")
                .field("page", &self.page)
                .field("expires", &self.expires)
                .finish_non_exhaustive()
        }
    }

    proptest! {
        #[test]
        fn every_token_comes_back_through_safe_characters(secret in ".{0,60}", sequence: u64) {
            let keys = plain();
            let key = keys.make_plain(&secret, &page(sequence)).unwrap();
            prop_assert!(has_safe_characters(&key));
            prop_assert_eq!(keys.parse_plain(&key), Some(PresentedKey::token(secret, Some(page(sequence)))));
        }

        #[test]
        fn junk_is_read_without_panic(key in "lu1[.].{0,60}") {
            let _ = plain().parse_plain(&key);
        }
    }

    #[cfg(feature = "sealed-keys")]
    mod sealed {
        use std::time::SystemTime;

        use super::*;

        const HOUR: Duration = Duration::from_secs(3600);
        const NEW: &str = "new-secret-0123456789-0123456789-0123456789";
        const OLD: &str = "old-secret-0123456789-0123456789-0123456789";

        fn keys(secrets: &[&str]) -> Keys {
            Keys::new(Some(Seal::new(secrets).unwrap()), "/api/v1", HOUR, Secret::new())
        }

        fn token(token: &str) -> PresentedKey {
            PresentedKey::token(token.to_owned(), None)
        }

        fn principal(principal: &str) -> OwnedCredentials {
            OwnedCredentials::Principal(principal.to_owned())
        }

        /// Seconds since 1970.
        fn now() -> u64 {
            Expiry::after(Duration::ZERO).seconds()
        }

        fn alice() -> Identity {
            Identity::new("alice")
        }

        /// A key whose expiry is this.
        fn until(keys: &Keys, expires: u64) -> String {
            let seal = Seal::new([NEW]).unwrap().bound_to("/api/v1");
            keys.make_sealed(&seal, "alice", &page(1), Expiry::at_second(expires)).unwrap()
        }

        #[test]
        fn a_key_holds_the_principal_and_not_the_token() {
            let keys = keys(&[NEW]);
            let key = keys.make(&token("a-token"), Some(&alice()), &page(5)).unwrap();
            let payload = text(key.split('.').nth(1).unwrap()).unwrap();
            let expires = keys.read(key).expires.unwrap();
            assert_eq!(payload, format!("{}.{}.alice", keys.encode(&page(5)), expires.seconds()));
            assert!(payload.starts_with(&format!("{ID}.{ID}.")));
            let life = expires.remaining();
            assert!(life <= HOUR && life > HOUR - Duration::from_secs(10), "{life:?}");
        }

        #[test]
        fn only_the_secrets_of_the_list_verify_and_the_first_signs() {
            let (new, old) = (keys(&[NEW]), keys(&[OLD]));
            let rotated = keys(&[NEW, OLD]);
            let make = |keys: &Keys| keys.make(&token("t"), Some(&alice()), &page(1)).unwrap();
            for (of, by, is_known) in [
                (&old, &rotated, true),
                (&new, &rotated, true),
                (&rotated, &new, true),
                (&rotated, &old, false),
                (&old, &new, false),
            ] {
                let key = make(of);
                let expected = if is_known { principal("alice") } else { OwnedCredentials::Token(key.clone()) };
                assert!(by.read(key).credentials == expected);
            }
        }

        #[test]
        fn another_endpoint_with_the_same_secret_has_other_keys() {
            let key = keys(&[NEW]).make(&token("t"), Some(&alice()), &page(1)).unwrap();
            for (path, is_known) in [("/api/v1", true), ("/api/v2", false), ("", false)] {
                let other = Keys::new(Some(Seal::new([NEW]).unwrap()), path, HOUR, Secret::new());
                assert_eq!(other.read(key.clone()).page.is_some(), is_known, "{path}");
            }
        }

        #[test]
        fn a_key_expires() {
            let now = now();
            let keys = keys(&[NEW]);
            for (expires, is_expired) in [(0, true), (now - 1, true), (now, true), (now + 60, false), (u64::MAX, false)]
            {
                let presented = keys.read(until(&keys, expires));
                assert!(presented.credentials == principal("alice"));
                assert_eq!(presented.is_expired(), is_expired, "{expires}");
            }
            assert!(!token("t").is_expired());
        }

        #[test]
        fn a_key_made_for_a_key_lives_no_longer() {
            let keys = keys(&[NEW]);
            let soon = now() + 60;
            let first = keys.read(until(&keys, soon));
            for identity in [Some(&alice()), None] {
                let second = keys.read(keys.make(&first, identity, &page(2)).unwrap());
                assert_eq!((second.expires, second.page), (Some(Expiry::at_second(soon)), Some(page(2))));
                assert!(second.credentials == principal("alice"));
            }
        }

        #[test]
        fn a_key_lives_no_longer_than_its_identity() {
            let keys = keys(&[NEW]);
            for (seconds, expected) in [(60, 60), (2 * 3600, 3600)] {
                let identity = alice().with_expiry(SystemTime::now() + Duration::from_secs(seconds));
                let key = keys.read(keys.make(&token("t"), Some(&identity), &page(1)).unwrap());
                let life = key.expires.unwrap().remaining().as_secs();
                assert!((expected - 10..=expected).contains(&life), "{life} of {seconds}");
            }
        }

        #[test]
        fn plain_keys_are_still_read_and_made_without_an_identity() {
            let keys = keys(&[NEW]);
            let plain = keys.make(&token("demo"), None, &page(3)).unwrap();
            assert_eq!(plain, keys.make_plain("demo", &page(3)).unwrap());
            assert_eq!(keys.read(plain), PresentedKey::token("demo".to_owned(), Some(page(3))));
        }

        #[test]
        fn a_principal_too_long_for_a_key_gets_a_plain_one() {
            let plain = keys(&[NEW]).make(&token("demo"), Some(&Identity::new("x".repeat(7000))), &page(3)).unwrap();
            assert!(plain.starts_with(PLAIN));
        }

        #[test]
        fn oversized_keys_are_not_read_however_well_signed() {
            let seal = Seal::new([NEW]).unwrap();
            let payload = format!("{ID}.{ID}.{POSITION}.{}.{}", u64::MAX, "x".repeat(7000));
            let signed = format!("{SEALED}{}", BASE64URL_NOPAD.encode(payload.as_bytes()));
            let key = format!("{signed}.{}", BASE64URL_NOPAD.encode(&seal.tag(&signed)));
            assert_eq!(plain().parse_sealed(&seal, &key), None);
        }

        #[test]
        fn no_single_byte_of_a_key_can_be_another() {
            let keys = keys(&[NEW, OLD]);
            let good = keys.make(&token("t"), Some(&alice()), &page(1)).unwrap();
            for at in 0..good.len() {
                for byte in 0..128 {
                    let mut bad = good.clone().into_bytes();
                    bad[at] = byte;
                    let bad = String::from_utf8(bad).unwrap();
                    if bad != good {
                        assert_eq!(keys.read(bad.clone()), token(&bad), "{bad}");
                    }
                }
                let (shorter, longer) = (&good[..at], format!("{}A{}", &good[..at], &good[at..]));
                for bad in [shorter, &longer] {
                    assert_eq!(keys.read(bad.to_owned()), token(bad), "{bad}");
                }
            }
        }

        #[test]
        fn weak_secrets_and_none_at_all_are_refused() {
            let none: [&str; 0] = [];
            assert!(Seal::new(none).is_err());
            assert!(Seal::new(["x".repeat(31)]).is_err());
            assert!(Seal::new([NEW, "short"]).is_err());
            assert!(Seal::new([[7_u8; 32]]).is_ok());
        }

        proptest! {
            #[test]
            fn every_principal_comes_back_through_safe_characters(principal in ".{0,60}", sequence: u64) {
                let keys = keys(&[NEW]);
                let key = keys.make(&token("t"), Some(&Identity::new(principal.clone())), &page(sequence)).unwrap();
                prop_assert!(has_safe_characters(&key));
                let presented = keys.read(key);
                prop_assert!(presented.credentials == OwnedCredentials::Principal(principal));
                prop_assert_eq!(presented.page, Some(page(sequence)));
            }

            #[test]
            fn junk_is_a_token(junk in "lu2[.].{0,60}", tail in "[.][A-Za-z0-9_-]{43}") {
                let keys = keys(&[NEW]);
                for junk in [format!("{junk}{tail}"), junk] {
                    prop_assert_eq!(keys.read(junk.clone()), token(&junk));
                }
            }

            #[test]
            fn a_signed_text_that_is_no_key_is_refused(payload in "[0-9a-f.]{0,90}") {
                let seal = Seal::new([NEW]).unwrap();
                let signed = format!("{SEALED}{}", BASE64URL_NOPAD.encode(payload.as_bytes()));
                let key = format!("{signed}.{}", BASE64URL_NOPAD.encode(&seal.tag(&signed)));
                prop_assert_eq!(plain().parse_sealed(&seal, &key), None);
            }
        }
    }
}
