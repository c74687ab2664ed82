//! One change to one object of an entity.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::{
    error::ChangeError,
    object::{Object, quoted, string},
    scope::Scopes,
    sequence::Sequence,
};

/// What a write does to an object. [`Entity::route`](crate::Entity::route) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// A new object: `add-event`.
    Add,
    /// A changed object: `update-event`.
    Update,
    /// A deleted object: `delete-event`.
    Delete,
}

impl ChangeKind {
    /// The start of the message types of this kind, as the stock handlers know them.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// One change to one object, ready to be published.
///
/// The layer derives changes from the writes it watches. Create them yourself for what happens outside HTTP
/// ([`LiveUpdates::publish`](crate::LiveUpdates::publish)), or to replace what the layer derives
/// ([`LiveWrite::publish`](crate::LiveWrite::publish)).
///
/// ```
/// use serde_json::json;
/// use tower_live_updates::Change;
///
/// let moved = Change::update(&json!({"id": 17, "text": "Standup", "start_date": "2026-11-25 09:00"}))?;
/// let gone = Change::delete(17)?;
/// assert_eq!((moved.id(), gone.id()), ("17", "17"));
/// # Ok::<(), tower_live_updates::ChangeError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) id: Box<str>,
    pub(crate) object: Box<str>,
    /// The end of the log before the object was read from the store, which makes it whole; `None` if it was not read.
    /// Later records may be newer than the row.
    pub(crate) read_at: Option<Sequence>,
    /// Derived from a request whose response does not contradict it; not confirmed by the store.
    pub(crate) is_claimed: bool,
    /// The page that made the write sent other values, and shows them.
    pub(crate) is_rewritten: bool,
    pub(crate) drag: Drag,
    /// It is of the object that its write was about, and not of another one that changed along.
    pub(crate) is_target: bool,
    /// A write of the object was refused, and its page may still show what it wrote.
    pub(crate) is_refused: bool,
    /// The parent that the page which made the write shows the object below.
    pub(crate) shown_below: Option<Box<str>>,
    /// The scopes it is published in, of a scoped entity.
    pub(crate) scopes: Scopes,
    /// The scopes of the object before.
    pub(crate) moved_from: Scopes,
    /// The scopes in which its id is unique, if these are not `scopes`.
    pub(crate) namespace: Option<Scopes>,
    /// Of a deletion: the scopes of the object now.
    pub(crate) went_to: Scopes,
    /// Of an update that moved its object among its siblings.
    pub(crate) placement: Option<Placement>,
    pub(crate) before: Before,
}

/// What the page that made a write did to the place of an object in a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Drag {
    /// No page made it, or it does not show.
    #[default]
    Unknown,
    /// The object stays where it is.
    None,
    /// It was dragged to a place.
    Placed,
    /// The same, and the page may have lost it from its tree.
    Detached,
}

/// Where a moved object stands among its siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The sibling that follows, its id as JSON text; `None` at the end.
    pub(crate) before: Option<Box<str>>,
}

/// What was read of an object before a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Before {
    #[default]
    Unread,
    Absent,
    /// JSON text.
    Object(Box<str>),
}

impl Change {
    /// A new object: anything that serialises to a JSON object with an `id`.
    ///
    /// # Errors
    /// [`ChangeError`] if it does not serialise to a JSON object, or if its `id`
    ///
    /// - is missing, `null`, `0`, `""`, or neither text nor number, since the stock client drops such messages;
    /// - is longer than 256 bytes.
    pub fn add(object: &(impl Serialize + ?Sized)) -> Result<Self, ChangeError> {
        Self::serialized(ChangeKind::Add, object)
    }

    /// A changed object, with all its fields: some widgets (Gantt) misread an update without some of them. An update does
    /// not restore a deleted object; [`Change::add`] does.
    ///
    /// # Errors
    /// As [`Change::add`].
    pub fn update(object: &(impl Serialize + ?Sized)) -> Result<Self, ChangeError> {
        Self::serialized(ChangeKind::Update, object)
    }

    /// A deleted object. Clients compare ids as text, so `17` and `"17"` are one object.
    ///
    /// # Errors
    /// [`ChangeError`] if the id is empty or longer than 256 bytes.
    pub fn delete(id: impl fmt::Display) -> Result<Self, ChangeError> {
        let id = id.to_string();
        let raw = quoted(&id);
        Self::deletion(&raw).ok_or_else(|| no_usable_id(&raw))
    }

    /// Publishes the change in this scope, for a [scoped entity](crate::Entity::scoped). Each call adds a scope.
    /// Identities with any of the scopes receive the change. A scope has at most 256 bytes and no control characters;
    /// other names are ignored.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::Change;
    ///
    /// let standup = json!({"id": 17, "start_date": "2026-11-26 09:00", "end_date": "2026-11-26 09:15"});
    /// let change = Change::add(&standup)?.scope("team-a").scope("team-b");
    /// # Ok::<(), tower_live_updates::ChangeError>(())
    /// ```
    #[must_use]
    pub fn scope(mut self, scope: impl Into<Box<str>>) -> Self {
        self.scopes.add(scope);
        self
    }

    /// Names a scope that the object was in until now. Identities that have this scope, and none of the scopes the
    /// change is published in, receive a delete. Each call adds a scope.
    ///
    /// The layer knows the previous scopes while its log holds the object's last change. Call this if the object may be
    /// older than the log, or than the server's start.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::Change;
    ///
    /// let change = Change::update(&json!({"id": 17, "text": "Standup"}))?.scope("team-b").moved_from("team-a");
    /// # Ok::<(), tower_live_updates::ChangeError>(())
    /// ```
    #[must_use]
    pub fn moved_from(mut self, scope: impl Into<Box<str>>) -> Self {
        self.moved_from.add(scope);
        self
    }

    /// The kind of change.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The object's id as text.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The object as JSON text; only its id if it is deleted.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The deletion of the object whose id is the JSON text `raw_id`.
    pub(crate) fn deletion(raw_id: &str) -> Option<Self> {
        Self::new(ChangeKind::Delete, raw_id, format!(r#"{{"id":{raw_id}}}"#))
    }

    /// An add or update of `object`, which holds its id.
    pub(crate) fn of(kind: ChangeKind, object: &Object<'_>) -> Option<Self> {
        Self::new(kind, object.get("id")?, object.to_json())
    }

    fn new(kind: ChangeKind, raw_id: &str, object: String) -> Option<Self> {
        Some(Self {
            kind,
            id: usable_id(raw_id)?.into(),
            object: object.into(),
            read_at: None,
            is_claimed: false,
            is_rewritten: false,
            drag: Drag::Unknown,
            is_target: false,
            is_refused: false,
            shown_below: None,
            scopes: Scopes::None,
            moved_from: Scopes::None,
            namespace: None,
            went_to: Scopes::None,
            placement: None,
            before: Before::Unread,
        })
    }

    /// The same change, whose object is the store's current row.
    pub(crate) fn whole(self) -> Self {
        Self { read_at: Some(Sequence::MAX), ..self }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.read_at.is_some()
    }

    /// The same change, as derived from a request: neither read from the store, nor named by the application.
    pub(crate) fn claimed(self) -> Self {
        Self { is_claimed: true, ..self }
    }

    /// The scopes of what brings pages to the store's state with it.
    pub(crate) fn scopes_or_all(&self) -> Scopes {
        if self.scopes.is_none() { Scopes::All } else { self.scopes.clone() }
    }

    /// The scopes it is published in.
    pub(crate) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The previous scopes of its object that the application named.
    pub(crate) fn former_scopes(&self) -> &Scopes {
        &self.moved_from
    }

    /// The scopes in which its id is unique, of an entity whose ids are unique per scope.
    pub(crate) fn namespace(&self) -> &Scopes {
        self.namespace.as_ref().unwrap_or(&self.scopes)
    }

    /// True if its object has moved to another namespace.
    pub(crate) fn enters_namespace(&self) -> bool {
        self.namespace.is_none() && !self.moved_from.is_none()
    }

    /// The same change, of an object whose id is unique in this namespace.
    pub(crate) fn unique_in(self, namespace: &Scopes) -> Self {
        Self { namespace: Some(namespace.clone()), ..self }
    }

    /// The same change, published in these scopes unless it names its own.
    pub(crate) fn in_scopes(mut self, scopes: &Scopes, moved_from: &Scopes) -> Self {
        if self.scopes.is_none() {
            self.scopes = scopes.clone();
        }
        if self.moved_from.is_none() {
            self.moved_from = moved_from.clone();
        }
        self
    }

    fn serialized(kind: ChangeKind, object: &(impl Serialize + ?Sized)) -> Result<Self, ChangeError> {
        let json = serde_json::to_string(object).map_err(ChangeError::Serialize)?;
        let Some(fields) = Object::of(&json) else { return Err(ChangeError::NotAnObject) };
        Self::of(kind, &fields).ok_or_else(|| no_usable_id(fields.get("id").unwrap_or("nothing")))
    }
}

impl fmt::Debug for Change {
    /// Leaves the object out, which may hold data that does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Bytes of an id's text. Tombstones keep ids for long, and outsiders can name a long id in a path.
const MAX_ID: usize = 256;
/// Bytes of an id as JSON, with its quotes: of control characters each would be six.
const MAX_RAW_ID: usize = 2 * MAX_ID + 2;

/// The text of an id the stock client accepts: it drops messages with a falsy id, and an object as an id crashes it.
pub(crate) fn usable_id(raw: &str) -> Option<Cow<'_, str>> {
    let id = match raw.as_bytes().first()? {
        b'"' => string(raw).filter(|text| !text.is_empty()),
        b'-' | b'0'..=b'9' => {
            let mantissa = raw.split(['e', 'E']).next()?;
            let zero = !mantissa.bytes().any(|digit| matches!(digit, b'1'..=b'9'));
            (!zero).then_some(Cow::Borrowed(raw))
        }
        _ => None,
    };
    id.filter(|text| text.len() <= MAX_ID && raw.len() <= MAX_RAW_ID)
}

fn no_usable_id(found: &str) -> ChangeError {
    let length = string(found).map_or(found.len(), |text| text.len()).max(found.len() / 2);
    ChangeError::NoUsableId { found: if length > MAX_ID { format!("{length} bytes") } else { found.to_owned() } }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_that_the_client_drops_are_refused() {
        for id in [json!(null), json!(0), json!(""), json!(0.0), json!({"a": 1}), json!(true), json!([1])] {
            let change = Change::add(&json!({"id": id}));
            assert!(matches!(change, Err(ChangeError::NoUsableId { .. })), "{id}");
        }
        assert!(matches!(Change::update(&json!({"text": "x"})), Err(ChangeError::NoUsableId { .. })));
        assert!(matches!(Change::add(&[1]), Err(ChangeError::NotAnObject)));
        assert!(Change::delete("").is_err());
        assert!(Change::delete("x".repeat(256)).is_ok());
        let error = Change::delete("x".repeat(257)).unwrap_err().to_string();
        assert!(error.ends_with("found 257 bytes"), "{error}");
        assert!(Change::delete("\"".repeat(256)).is_ok() && Change::delete("ä".repeat(128)).is_ok());
        assert!(Change::delete("\u{1}".repeat(256)).is_err(), "as JSON it is six times as long");
    }

    #[test]
    fn ids_are_text_and_never_floats() {
        let change = Change::update(&json!({"id": 9_007_199_254_740_993_u64})).unwrap();
        assert_eq!(change.id(), "9007199254740993");
        assert_eq!(usable_id("1e400").as_deref(), Some("1e400"));
        assert_eq!(usable_id(r#""0""#).as_deref(), Some("0"), "the text 0 is truthy in JavaScript");
    }

    #[test]
    fn debug_shows_no_content() {
        let change = Change::add(&json!({"id": 1, "text": "secret"})).unwrap();
        assert!(!format!("{change:?}").contains("secret"));
    }
}
