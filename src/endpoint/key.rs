//! The `key` of a handshake: which page this is, and where the log stood when it was loaded.
//!
//! The client pastes the key unescaped into the socket's address, at every (re)connect, in place of its token. So it
//! holds only `A-Z a-z 0-9 - _ . ~` (a `#` would make the page's constructor throw), and carries the token inside.
//!
//! Plain form: `lu1.` token (base64url) `.` session id `.` epoch `.` sequence.

use data_encoding::BASE64URL_NOPAD;

/// Longer keys are neither made nor read; the token is then used as it is.
const MAX_LENGTH: usize = 8 * 1024;
const PLAIN: &str = "lu1.";

/// A key in its plain form; `None` when the token is too long for one.
pub(crate) fn plain(token: &str, session: &str, epoch: &str, sequence: u64) -> Option<String> {
    let token = BASE64URL_NOPAD.encode(token.as_bytes());
    let key = format!("{PLAIN}{token}.{session}.{epoch}.{sequence}");
    (key.len() <= MAX_LENGTH).then_some(key)
}

/// The token that a page names, by a key or by itself.
pub(crate) fn unwrapped(named: String) -> String {
    token(&named).unwrap_or(named)
}

/// The token in a key; `None` when this is no key, or one that was tampered with: then it is a token, and a wrong one.
fn token(key: &str) -> Option<String> {
    let rest = key.strip_prefix(PLAIN).filter(|_| key.len() <= MAX_LENGTH)?;
    let mut parts = rest.split('.');
    let (token, session, epoch, sequence) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let id = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.next().is_some() || !id(session) || !id(epoch) || sequence.parse::<u64>().is_err() {
        return None;
    }
    String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn oversized_tokens_get_no_key() {
        assert_eq!(plain(&"x".repeat(7000), ID, ID, 1), None);
        assert_eq!(token(&format!("{PLAIN}{}.{ID}.{ID}.1", "A".repeat(9000))), None);
    }

    #[test]
    fn what_is_not_quite_a_key_is_none() {
        let good = plain("demo", ID, ID, 5).unwrap();
        for bad in [
            String::new(),
            "demo".into(),
            "lu1.".into(),
            "lu1....".into(),
            good.replace("lu1", "lu2"),
            format!("{good}.6"),
            good.replace(".5", ".-5"),
            good.replace(".5", ".99999999999999999999"),
            good.replace(ID, "xyz"),
            good.replacen('Z', "*", 1),
        ] {
            assert_eq!(token(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_token_comes_back_through_safe_characters(secret in ".{0,60}", sequence: u64) {
            let key = plain(&secret, ID, ID, sequence).unwrap();
            prop_assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)));
            prop_assert_eq!(token(&key), Some(secret));
        }

        #[test]
        fn junk_is_read_without_panic(key in "lu1[.].{0,60}") {
            let _ = token(&key);
        }
    }
}
