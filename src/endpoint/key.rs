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

/// What a key says of its page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageKey {
    /// Names the session.
    pub(crate) session: String,
    /// Names the log that the sequence number is of.
    pub(crate) epoch: String,
    /// Where in the log the page may have begun to miss something.
    pub(crate) sequence: u64,
}

/// What a page names itself by: a token, and where it comes from when that stood in a key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) token: String,
    pub(crate) page: Option<PageKey>,
}

/// A key in its plain form; `None` when the token is too long for one.
pub(crate) fn plain(token: &str, page: &PageKey) -> Option<String> {
    let token = BASE64URL_NOPAD.encode(token.as_bytes());
    let PageKey { session, epoch, sequence } = page;
    let key = format!("{PLAIN}{token}.{session}.{epoch}.{sequence}");
    (key.len() <= MAX_LENGTH).then_some(key)
}

/// What a page names, by a key or by its token itself.
pub(crate) fn read(named: String) -> Named {
    parse(&named).unwrap_or(Named { token: named, page: None })
}

/// What is in a key; `None` when this is no key, or one that was tampered with: then it is a token, and a wrong one.
fn parse(key: &str) -> Option<Named> {
    let rest = key.strip_prefix(PLAIN).filter(|_| key.len() <= MAX_LENGTH)?;
    let mut parts = rest.split('.');
    let (token, session, epoch, sequence) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let id = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.next().is_some() || !id(session) || !id(epoch) {
        return None;
    }
    let page = PageKey { session: session.to_owned(), epoch: epoch.to_owned(), sequence: sequence.parse().ok()? };
    let token = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()?;
    Some(Named { token, page: Some(page) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn page(sequence: u64) -> PageKey {
        PageKey { session: ID.to_owned(), epoch: ID.to_owned(), sequence }
    }

    #[test]
    fn oversized_tokens_get_no_key() {
        assert_eq!(plain(&"x".repeat(7000), &page(1)), None);
        assert_eq!(parse(&format!("{PLAIN}{}.{ID}.{ID}.1", "A".repeat(9000))), None);
    }

    #[test]
    fn what_is_not_quite_a_key_is_none() {
        let good = plain("demo", &page(5)).unwrap();
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
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    impl std::fmt::Debug for Named {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Named").field("page", &self.page).finish_non_exhaustive()
        }
    }

    proptest! {
        #[test]
        fn every_token_comes_back_through_safe_characters(secret in ".{0,60}", sequence: u64) {
            let key = plain(&secret, &page(sequence)).unwrap();
            prop_assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)));
            prop_assert_eq!(parse(&key), Some(Named { token: secret, page: Some(page(sequence)) }));
        }

        #[test]
        fn junk_is_read_without_panic(key in "lu1[.].{0,60}") {
            let _ = parse(&key);
        }
    }
}
