//! The sockets that are here, by the id of what each is shown as.
//!
//! An object is here while one of its members is: a socket, or one that has gone a moment ago. It is shown as its newest
//! member is, in the scopes of all.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    change::{Change, ChangeKind},
    object::Object,
    scope::Scopes,
};

/// Who is here, of one entity.
#[derive(Default)]
pub(crate) struct Registry {
    /// The open sockets that are shown.
    sockets: HashMap<usize, Member>,
    /// Those that have gone, the first to be forgotten first.
    leaving: VecDeque<(Instant, Member)>,
    objects: HashMap<Arc<str>, Shown>,
    /// Members so far.
    came: u64,
}

/// One socket.
struct Member {
    number: u64,
    id: Arc<str>,
}

/// An object that is here.
#[derive(Default)]
struct Shown {
    /// What each member is shown as, the newest last.
    members: BTreeMap<u64, Arc<Change>>,
    /// How many members have these scopes.
    scopes: HashMap<Scopes, usize>,
    /// As pages have it, and the scopes in which they do.
    published: Option<(Arc<Change>, Scopes)>,
}

impl Registry {
    /// A socket is shown as this from now on, or not at all. Returns what changes for the pages.
    pub(crate) fn comes(&mut self, socket: usize, shown: Option<Change>) -> Vec<Change> {
        let known = self.sockets.get(&socket).map(|member| (member.number, member.id.clone()));
        match (known, shown) {
            (Some((number, id)), Some(change)) if *id == *change.id => {
                self.remove(number, &id);
                self.insert(number, &id, change);
                self.update(&id).into_iter().collect()
            }
            (known, shown) => {
                let left = known.and_then(|_| self.leaves(socket));
                let came = shown.and_then(|change| {
                    let id = self
                        .objects
                        .get_key_value(&*change.id)
                        .map_or_else(|| Arc::from(&*change.id), |(id, _)| id.clone());
                    self.came += 1;
                    self.sockets.insert(socket, Member { number: self.came, id: id.clone() });
                    self.insert(self.came, &id, change);
                    self.update(&id)
                });
                left.into_iter().chain(came).collect()
            }
        }
    }

    /// A socket is not here any more.
    pub(crate) fn leaves(&mut self, socket: usize) -> Option<Change> {
        let Member { number, id } = self.sockets.remove(&socket)?;
        self.remove(number, &id);
        self.update(&id)
    }

    /// A socket has gone, and is here until a time that is no earlier than any given before. Of more than `most` such
    /// sockets the first leaves now.
    pub(crate) fn leaves_at(&mut self, socket: usize, at: Instant, most: usize) -> Option<Change> {
        let member = self.sockets.remove(&socket)?;
        self.leaving.push_back((at, member));
        if self.leaving.len() > most { self.forget_first() } else { None }
    }

    /// Forgets at most so many of those whose time has come. Returns what changes, and when the next time comes.
    pub(crate) fn forget(&mut self, now: Instant, most: usize) -> (Vec<Change>, Option<Instant>) {
        let due = self.leaving.iter().take(most).take_while(|(at, _)| *at <= now).count();
        let changes = (0..due).filter_map(|_| self.forget_first()).collect();
        (changes, self.leaving.front().map(|(at, _)| *at))
    }

    fn forget_first(&mut self) -> Option<Change> {
        let (_, Member { number, id }) = self.leaving.pop_front()?;
        self.remove(number, &id);
        self.update(&id)
    }

    /// Everyone who is here, as adds: those who share a scope with these where there are any.
    pub(crate) fn all(&self, seen_by: Option<&Scopes>) -> Vec<Change> {
        let shown = self.objects.values().filter_map(|shown| shown.published.as_ref());
        let seen = shown.filter(|(_, scopes)| seen_by.is_none_or(|seen_by| scopes.intersects(seen_by)));
        seen.map(|(change, scopes)| Change { scopes: scopes.clone(), ..(**change).clone() }.whole()).collect()
    }

    fn insert(&mut self, number: u64, id: &Arc<str>, change: Change) {
        let scopes = change.scopes.clone();
        let shown = self.objects.entry(id.clone()).or_default();
        // Most members of an object are shown alike.
        let alike = shown.members.last_key_value().map(|(_, newest)| newest).filter(|newest| ***newest == change);
        let change = alike.cloned().unwrap_or_else(|| Arc::new(change));
        shown.members.insert(number, change);
        *shown.scopes.entry(scopes).or_default() += 1;
    }

    /// Takes a member off its object, which [`update`](Self::update) is to follow.
    fn remove(&mut self, number: u64, id: &str) {
        let Some(shown) = self.objects.get_mut(id) else { return };
        let Some(change) = shown.members.remove(&number) else { return };
        if let Some(members) = shown.scopes.get_mut(&change.scopes) {
            *members -= 1;
            if *members == 0 {
                shown.scopes.remove(&change.scopes);
            }
        }
    }

    /// What is to be published of an object whose members have changed.
    fn update(&mut self, id: &str) -> Option<Change> {
        let shown = self.objects.get_mut(id)?;
        let Some((_, newest)) = shown.members.last_key_value() else {
            let (known, scopes) = self.objects.remove(id)?.published?;
            // With the id as it was sent: for scripts a number is another key than its text.
            let raw_id = Object::of(&known.object)?.get("id")?.to_owned();
            return Some(Change::deletion(&raw_id)?.in_scopes(&scopes, &Scopes::None));
        };
        let scopes = shown.scopes.keys().fold(Scopes::None, |all, some| all.and(some));
        let of_kind = |kind| Change { kind, scopes: scopes.clone(), ..(**newest).clone() }.whole();
        let change = match &shown.published {
            Some((known, had)) if known.object == newest.object && *had == scopes => return None,
            Some((_, had)) if *had != scopes => of_kind(ChangeKind::Update).in_scopes(&Scopes::None, had),
            Some(_) => of_kind(ChangeKind::Update),
            None => of_kind(ChangeKind::Add),
        };
        shown.published = Some((newest.clone(), scopes));
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn person(id: &str, text: &str, scopes: &[&str]) -> Change {
        scopes.iter().fold(Change::add(&json!({"id": id, "text": text})).unwrap(), |change, scope| change.scope(*scope))
    }

    fn alice(text: &str) -> Option<Change> {
        Some(person("alice", text, &[]))
    }

    /// Each change in few words.
    fn words(changes: impl IntoIterator<Item = Change>) -> Vec<String> {
        let words = |change: Change| {
            let object: serde_json::Value = serde_json::from_str(&change.object).unwrap();
            let text = object["text"].as_str().unwrap_or_default();
            format!("{} {} {text}", change.kind.verb(), change.id).trim_end().to_owned()
        };
        changes.into_iter().map(words).collect()
    }

    #[test]
    fn an_object_comes_with_its_first_member_and_goes_with_its_last() {
        let mut here = Registry::default();
        assert_eq!(words(here.comes(1, alice("desk"))), ["add alice desk"]);
        assert!(here.comes(2, alice("desk")).is_empty());
        assert_eq!(words(here.comes(3, alice("phone"))), ["update alice phone"]);
        assert!(here.leaves(1).is_none());
        assert_eq!(words(here.leaves(3)), ["update alice desk"], "as the newest that is left");
        assert_eq!(words(here.leaves(2)), ["delete alice"]);
        assert!(here.leaves(2).is_none() && here.objects.is_empty() && here.sockets.is_empty());
    }

    #[test]
    fn a_socket_may_change_what_it_is_shown_as() {
        let mut here = Registry::default();
        here.comes(1, alice("a"));
        here.comes(2, alice("b"));
        assert!(here.comes(1, alice("c")).is_empty(), "it is still the older one");
        assert_eq!(words(here.comes(2, alice("d"))), ["update alice d"]);
        assert_eq!(words(here.comes(2, Some(person("bob", "b", &[])))), ["update alice c", "add bob b"]);
        assert_eq!(words(here.comes(2, None)), ["delete bob"]);
        assert_eq!(words(here.comes(1, Some(person("carl", "", &[])))), ["delete alice", "add carl"]);
        assert!(here.comes(3, None).is_empty());
    }

    #[test]
    fn one_that_comes_back_in_time_has_never_left() {
        let mut here = Registry::default();
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        here.comes(1, alice("a"));
        assert!(here.leaves_at(1, later, 9).is_none());
        assert_eq!(words(here.all(None)), ["add alice a"]);
        assert!(here.comes(1, alice("a")).is_empty(), "a socket of another page may get the same number");
        assert_eq!(here.forget(now, 9).1, Some(later));
        assert!(here.forget(later, 9).0.is_empty());
        assert!(here.leaves_at(1, later, 9).is_none());
        let (changes, next) = here.forget(later, 9);
        assert_eq!((words(changes), next), (vec!["delete alice".to_owned()], None));
    }

    #[test]
    fn those_that_leave_are_bounded_and_forgotten_a_few_at_a_time() {
        let mut here = Registry::default();
        let later = Instant::now() + Duration::from_secs(5);
        for (socket, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            here.comes(socket, Some(person(name, "", &[])));
        }
        let left: Vec<Change> = (0..4).filter_map(|socket| here.leaves_at(socket, later, 3)).collect();
        assert_eq!(words(left), ["delete a"]);
        let (changes, next) = here.forget(later, 2);
        assert_eq!((words(changes), next), (vec!["delete b".to_owned(), "delete c".to_owned()], Some(later)));
    }

    #[test]
    fn an_object_is_in_the_scopes_of_all_its_members() {
        let mut here = Registry::default();
        let scopes = |change: &Change| (change.scopes.to_string(), change.moved_from.to_string());
        let of = |scope: &str| Some(person("alice", "a", &[scope]));
        assert_eq!(scopes(&here.comes(1, of("north"))[0]), ("north".to_owned(), String::new()));
        assert!(here.comes(2, of("north")).is_empty());
        let moved = here.comes(3, of("south"));
        assert_eq!(words(moved.clone()), ["update alice a"]);
        assert_eq!(scopes(&moved[0]), ("north,south".to_owned(), "north".to_owned()));
        let seen_by = |scope: &str| here.all(Some(&[scope].into_iter().collect())).len();
        assert_eq!(["north", "south", "west"].map(seen_by), [1, 1, 0]);
        assert!(here.leaves(1).is_none());
        assert_eq!(scopes(&here.leaves(2).unwrap()), ("south".to_owned(), "north,south".to_owned()));
        assert_eq!(scopes(&here.leaves(3).unwrap()), ("south".to_owned(), String::new()));
    }

    #[test]
    fn an_id_is_deleted_as_it_was_sent() {
        let mut here = Registry::default();
        here.comes(1, Some(Change::add(&json!({"id": 7})).unwrap()));
        assert_eq!(here.leaves(1).unwrap().object(), r#"{"id":7}"#);
    }

    proptest! {
        /// What pages make of the changes is who is here.
        #[test]
        fn changes_lead_to_what_is_here(
            ops in proptest::collection::vec((0..5_usize, 0..4_u8, 0..3_u8, 0..3_u8, 0..3_usize), 1..80),
        ) {
            let (mut here, mut pages) = (Registry::default(), BTreeMap::new());
            let start = Instant::now();
            for (step, (socket, op, name, text, count)) in (1..).zip(ops) {
                let now = start + Duration::from_secs(step);
                let changes = match op {
                    0 => here.comes(socket, (name > 0).then(|| person(&name.to_string(), &text.to_string(), &[]))),
                    1 => here.leaves(socket).into_iter().collect(),
                    2 => here.leaves_at(socket, now + Duration::from_secs(5), 4).into_iter().collect(),
                    _ => here.forget(now, count).0,
                };
                for change in changes {
                    let was = match change.kind {
                        ChangeKind::Delete => pages.remove(&change.id),
                        ChangeKind::Add | ChangeKind::Update => pages.insert(change.id.clone(), change.object.clone()),
                    };
                    prop_assert_eq!(was.is_none(), change.kind == ChangeKind::Add);
                }
                let all = here.all(None).into_iter().map(|change| (change.id, change.object)).collect();
                prop_assert_eq!(&pages, &all);
                let members = here.sockets.len() + here.leaving.len();
                prop_assert_eq!(here.objects.values().map(|shown| shown.members.len()).sum::<usize>(), members);
            }
        }
    }
}
