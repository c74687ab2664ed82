//! The built-in token list.

use std::sync::Arc;

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{
    identity::{AuthError, Identity},
    request::Credentials,
};

/// A fixed list of tokens, each with its principal. Every comparison runs to the end, whatever the others found.
pub(crate) struct TokenList(Vec<(String, Arc<str>)>);

impl TokenList {
    pub(crate) fn new(tokens: Vec<String>) -> Self {
        Self(tokens.into_iter().zip(1_u64..).map(|(token, place)| (token, format!("token-{place}").into())).collect())
    }

    pub(crate) fn verify(&self, credentials: Credentials<'_>) -> Result<Identity, AuthError> {
        let found = match credentials {
            Credentials::Token(token) => find(&self.0, token),
            Credentials::Principal(principal) => self.0.iter().map(|(_, name)| name).find(|name| ***name == *principal),
        };
        found.cloned().map(Identity::new).ok_or(AuthError::Denied)
    }
}

fn find<'n>(named: &'n [(String, Arc<str>)], token: &str) -> Option<&'n Arc<str>> {
    let mut is_found = Choice::from(0);
    let mut index = 0_u64;
    for ((candidate, _), place) in named.iter().zip(0_u64..) {
        let is_same = candidate.as_bytes().ct_eq(token.as_bytes());
        index.conditional_assign(&place, is_same);
        is_found |= is_same;
    }
    let index = bool::from(is_found).then(|| usize::try_from(index).ok())??;
    named.get(index).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &TokenList, credentials: Credentials<'_>) -> Result<String, AuthError> {
        list.verify(credentials).map(|identity| identity.principal().to_owned())
    }

    #[test]
    fn the_list_knows_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |token: &str| named(&list, Credentials::Token(token));
        assert_eq!(named("demo").unwrap(), "token-1");
        assert_eq!(named("a+b/c==").unwrap(), "token-2");
        for wrong in ["", "dem", "demox", "Demo", "a b/c==", "token-1"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }

    #[test]
    fn the_list_knows_the_principals_of_its_tokens_and_nothing_else() {
        let list = TokenList::new(vec!["demo".into(), "a+b/c==".into()]);
        let named = |principal: &str| named(&list, Credentials::Principal(principal));
        for right in ["token-1", "token-2"] {
            assert_eq!(named(right).unwrap(), right);
        }
        for wrong in ["", "demo", "token-0", "token-3", "token-01", "token-+1", "anonymous"] {
            assert_eq!(named(wrong).unwrap_err(), AuthError::Denied, "{wrong}");
        }
    }
}
