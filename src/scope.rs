//! Scopes: keys, such as a tenant or a calendar, that limit who receives a record.

use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use crate::sequence::Sequence;
use serde::{Deserialize, Serialize};

/// The longest scope in bytes. Scopes come from paths and headers, and are kept in memory.
const MAX_NAME: usize = 256;

/// A name that can be a scope: not empty, at most 256 bytes, and no control characters, which would break log lines.
fn is_usable(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// A set of scopes: those of an identity, or those that a record is published in.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) enum Scopes {
    #[default]
    None,
    Some(Named),
    /// A record in all scopes reaches every identity. An identity with all scopes receives every record.
    All,
}

/// Some scopes, named.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Named {
    /// One bit for each name: for most disjoint sets it shows that they are, without a comparison of names.
    bits: u64,
    /// Sorted, each once.
    names: Arc<[Box<str>]>,
}

impl Scopes {
    /// True for the empty set.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Adds a scope.
    pub(crate) fn add(&mut self, scope: impl Into<Box<str>>) {
        *self = self.and(&std::iter::once(scope.into()).collect());
    }

    /// The union.
    pub(crate) fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::None, set) | (set, Self::None) => set.clone(),
            (Self::All, _) | (_, Self::All) => Self::All,
            (mine, theirs) if mine == theirs => mine.clone(),
            (Self::Some(mine), Self::Some(theirs)) => mine.names.iter().chain(&*theirs.names).cloned().collect(),
        }
    }

    /// The intersection.
    pub(crate) fn common(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::All, set) | (set, Self::All) => set.clone(),
            (Self::Some(mine), Self::Some(theirs)) => {
                mine.names.iter().filter(|name| theirs.names.binary_search(name).is_ok()).cloned().collect()
            }
        }
    }

    /// Whether a record published in these scopes reaches a recipient with those.
    pub(crate) fn intersects(&self, recipient: &Self) -> bool {
        match (self, recipient) {
            (Self::All, _) | (Self::Some(_), Self::All) => true,
            (Self::None, _) | (Self::Some(_), Self::None) => false,
            (Self::Some(mine), Self::Some(theirs)) => mine.intersects(theirs),
        }
    }

    /// The names; none for the set of all.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::Some(named) => &*named.names,
            Self::None | Self::All => &[],
        };
        names.iter().map(|name| &**name)
    }

    /// The names, as an application's hook receives them.
    pub(crate) fn to_strings(&self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }

    /// The memory that a set occupies where it is kept.
    pub(crate) fn bytes(&self) -> usize {
        self.names().map(|name| name.len() + size_of::<Box<str>>()).sum()
    }
}

impl Named {
    fn intersects(&self, other: &Self) -> bool {
        if self.bits & other.bits == 0 {
            return false;
        }
        let (few, many) = if self.names.len() <= other.names.len() { (self, other) } else { (other, self) };
        few.names.iter().any(|name| many.names.binary_search(name).is_ok())
    }
}

impl<N: Into<Box<str>>> FromIterator<N> for Scopes {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        let mut names: Vec<Box<str>> = names.into_iter().map(Into::into).filter(|name| is_usable(name)).collect();
        if names.is_empty() {
            return Self::None;
        }
        names.sort_unstable();
        names.dedup();
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let bits = names.iter().fold(0, |bits, name| bits | 1 << (hasher.hash_one(name) % u64::from(u64::BITS)));
        Self::Some(Named { bits, names: names.into() })
    }
}

/// All scopes in the log file: no name has control characters, or is empty.
const SAVED_ALL: &str = "\n";

/// One name in each line.
impl From<Scopes> for String {
    fn from(scopes: Scopes) -> Self {
        match scopes {
            Scopes::All => SAVED_ALL.to_owned(),
            named => named.to_strings().join("\n"),
        }
    }
}

impl From<String> for Scopes {
    fn from(text: String) -> Self {
        if text == SAVED_ALL { Self::All } else { text.split('\n').collect() }
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::Some(named) => f.debug_set().entries(&*named.names).finish(),
        }
    }
}

/// The scopes that an identity had before, each set with the position in the log where it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastScopes(pub(crate) Vec<(Scopes, Sequence)>);

impl PastScopes {
    /// Sets that are remembered one by one; the oldest of more are merged.
    const CHANGES: usize = 8;

    /// The identity had these scopes until that position.
    pub(crate) fn add(&mut self, scopes: Scopes, until: Sequence) {
        self.0.push((scopes, until));
        if self.0.len() > Self::CHANGES {
            let (oldest, _) = self.0.remove(0);
            let (next, _) = &mut self.0[0];
            *next = next.and(&oldest);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a record published in these scopes at that position reached the identity. False where the position is
    /// unknown.
    pub(crate) fn received(&self, scopes: &Scopes, at: Option<Sequence>) -> bool {
        self.0.iter().any(|(had, until)| at.is_some_and(|at| at < *until) && scopes.intersects(had))
    }

    /// The union of all sets.
    pub(crate) fn scopes(&self) -> Scopes {
        self.0.iter().fold(Scopes::None, |all, (scopes, _)| all.and(scopes))
    }
}

/// The names with commas between them, as in the audit.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::All {
            return f.write_str("*");
        }
        for (index, name) in self.names().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(names: &[&str]) -> Scopes {
        names.iter().copied().collect()
    }

    #[test]
    fn a_record_reaches_recipients_with_a_common_scope() {
        let (all, none) = (Scopes::All, Scopes::None);
        for (scopes, recipient, is_reached) in [
            (&set(&["a"]), &set(&["a"]), true),
            (&set(&["a"]), &set(&["b"]), false),
            (&set(&["a", "b"]), &set(&["b", "c"]), true),
            (&set(&["a"]), &none, false),
            (&set(&["a"]), &all, true),
            (&all, &none, true),
            (&all, &set(&["a"]), true),
            (&none, &all, false),
            (&none, &none, false),
            (&none, &set(&["a"]), false),
        ] {
            assert_eq!(scopes.intersects(recipient), is_reached, "{scopes:?} {recipient:?}");
        }
    }

    #[test]
    fn unusable_names_are_no_scopes() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", "a\nb", "a\u{7f}", &long] {
            assert!(set(&[name]).is_none(), "{name:?}");
        }
        assert!(!set(&[&long[1..], "ä b,c"]).is_none());
    }

    #[test]
    fn a_set_has_each_name_once_however_it_was_made() {
        let mut added = set(&["b"]);
        added.add("a");
        added.add("b");
        assert_eq!(added, set(&["a", "b", "a"]));
        assert_eq!((added.to_string(), Scopes::All.to_string()), ("a,b".to_owned(), "*".to_owned()));
        assert_eq!(added.and(&Scopes::All), Scopes::All);
        assert_eq!(set(&[]), Scopes::None);
        assert_eq!(set(&["a", "b"]).common(&set(&["b", "c"])), set(&["b"]));
        assert_eq!((set(&["a"]).common(&Scopes::All), set(&["a"]).common(&set(&["b"]))), (set(&["a"]), Scopes::None));
    }

    #[test]
    fn past_scopes_are_remembered_with_their_end() {
        let mut earlier = PastScopes::default();
        earlier.add(set(&["a"]), Sequence(10));
        earlier.add(set(&["b"]), Sequence(20));
        for (scope, at, was_reached) in
            [("a", 9, true), ("a", 10, false), ("b", 19, true), ("b", 20, false), ("c", 0, false)]
        {
            assert_eq!(earlier.received(&set(&[scope]), Some(Sequence(at))), was_reached, "{scope} {at}");
        }
        assert!(!earlier.received(&set(&["a"]), None), "an unknown position");
        for change in 0..100 {
            earlier.add(set(&["c"]), Sequence(30 + change));
        }
        assert!(earlier.0.len() <= PastScopes::CHANGES && earlier.received(&set(&["a"]), Some(Sequence(9))));
        assert_eq!(earlier.scopes(), set(&["a", "b", "c"]));
    }

    proptest! {
        #[test]
        fn a_record_reaches_recipients_whose_scopes_intersect_its_own(
            record in proptest::collection::btree_set("[a-z]{1,2}", 1..20),
            theirs in proptest::collection::btree_set("[a-z]{1,2}", 1..20),
        ) {
            let of = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Scopes>();
            prop_assert_eq!(of(&record).intersects(&of(&theirs)), !record.is_disjoint(&theirs));
        }
    }
}
