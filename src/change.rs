//! What a write did: one change to one object of an entity.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::{
    error::ChangeError,
    object::{Object, quoted, string},
    scope::Scopes,
};

/// The three things a write can do; an example stands at [`Entity::route`](crate::Entity::route).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// A new object: `add-event`.
    Add,
    /// An object that exists: `update-event`.
    Update,
    /// An object that is gone: `delete-event`.
    Delete,
}

impl ChangeKind {
    /// The head of the message types of this kind, as the stock handlers know them.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// One change to one object, ready to be told to every page.
///
/// The layer makes changes from the writes it watches. Make them yourself for what happens outside HTTP
/// ([`LiveUpdates::publish`](crate::LiveUpdates::publish)) or where a handler knows better
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
#[derive(Clone, PartialEq)]
pub struct Change {
    kind: ChangeKind,
    id: Box<str>,
    object: Box<str>,
    /// Where the log stood before it was read from the store, so that no field is missing; `None` where it was not.
    read_at: Option<u64>,
    /// It says what a request claims and its answer does not contradict; nobody has looked into the store.
    is_claimed: bool,
    /// The page that made the write sent other values than these, and shows them.
    is_rewritten: bool,
    /// Who hears it, of a scoped entity.
    scopes: Scopes,
    /// Where the object was before.
    moved_from: Scopes,
    /// Where its id is unique, if that is not where it is told.
    namespace: Option<Scopes>,
    /// Of a deletion: where its object is now.
    went_to: Scopes,
    before: Before,
}

/// What was read of an object before a write.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// [`ChangeError`] when it is no object, or its `id` is missing, `null`, `0`, `""`, or neither text nor number:
    /// the stock client throws such messages away. So is an id longer than 256 bytes.
    pub fn add(object: &(impl Serialize + ?Sized)) -> Result<Self, ChangeError> {
        Self::serialized(ChangeKind::Add, object)
    }

    /// A changed object, whole: some widgets (Gantt) misread an update that leaves fields out. It does not bring an object
    /// back that was deleted: [`Change::add`] does.
    ///
    /// # Errors
    /// As [`Change::add`].
    pub fn update(object: &(impl Serialize + ?Sized)) -> Result<Self, ChangeError> {
        Self::serialized(ChangeKind::Update, object)
    }

    /// An object that is gone. Clients compare ids as text, so `17` and `"17"` are one object.
    ///
    /// # Errors
    /// [`ChangeError`] when the id is empty or longer than 256 bytes.
    pub fn delete(id: impl fmt::Display) -> Result<Self, ChangeError> {
        let id = id.to_string();
        let raw = quoted(&id);
        Self::deletion(&raw).ok_or_else(|| no_usable_id(&raw))
    }

    /// Tells it in this scope, of a [scoped entity](crate::Entity::scoped): those hear it who have the scope. Several
    /// calls name several, and who has any of them hears it.
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

    /// Says that the object has been in this scope until now: who has it, and none of those the change is told in, is
    /// told that the object is gone.
    ///
    /// The layer remembers by itself for as long as its log holds the object's last change. Say it where an object may
    /// be older than the log, or than the server's start.
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

    /// What kind of change this is.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The object's id as text.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The object as JSON text; of a deleted one only its id.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The deletion of the object whose id is the JSON text `raw_id`.
    pub(crate) fn deletion(raw_id: &str) -> Option<Self> {
        Some(Self {
            kind: ChangeKind::Delete,
            id: usable_id(raw_id)?.into(),
            object: format!(r#"{{"id":{raw_id}}}"#).into(),
            read_at: None,
            is_claimed: false,
            is_rewritten: false,
            scopes: Scopes::None,
            moved_from: Scopes::None,
            namespace: None,
            went_to: Scopes::None,
            before: Before::Unread,
        })
    }

    /// An add or update of `object`, which holds its id.
    pub(crate) fn of(kind: ChangeKind, object: &Object<'_>) -> Option<Self> {
        Some(Self {
            kind,
            id: usable_id(object.get("id")?)?.into(),
            object: object.to_json().into(),
            read_at: None,
            is_claimed: false,
            is_rewritten: false,
            scopes: Scopes::None,
            moved_from: Scopes::None,
            namespace: None,
            went_to: Scopes::None,
            before: Before::Unread,
        })
    }

    /// The same change of an object that was read from the store as it is now.
    pub(crate) fn whole(self) -> Self {
        Self { read_at: Some(u64::MAX), ..self }
    }

    /// The same of a row that was read when the log had come so far: what is told behind that may be newer.
    pub(crate) fn read_at(self, head: u64) -> Self {
        Self { read_at: Some(head), ..self }
    }

    /// Whether its row was read behind this record.
    pub(crate) fn is_read_behind(&self, sequence: u64) -> bool {
        self.read_at.is_some_and(|head| head > sequence)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.read_at.is_some()
    }

    /// The same change, as derived from a request: neither read from the store, nor named by the application.
    pub(crate) fn claimed(self) -> Self {
        Self { is_claimed: true, ..self }
    }

    /// True where it was derived from a request alone: what is known of its object may contradict it.
    pub(crate) fn is_claimed(&self) -> bool {
        self.is_claimed
    }

    /// The same change, whose object is what the page sent that made it, or is not.
    pub(crate) fn rewritten(self, is_rewritten: bool) -> Self {
        Self { is_rewritten, ..self }
    }

    /// True where the page that made it shows something else.
    pub(crate) fn is_rewritten(&self) -> bool {
        self.is_rewritten
    }

    /// Who hears it.
    pub(crate) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The same change, with what was read of its object before the write.
    pub(crate) fn after(self, before: Before) -> Self {
        Self { before, ..self }
    }

    pub(crate) fn before(&self) -> &Before {
        &self.before
    }

    /// Where its object was, as far as somebody said so.
    pub(crate) fn former_scopes(&self) -> &Scopes {
        &self.moved_from
    }

    /// Where its id is unique, where that is so for a scope only.
    pub(crate) fn namespace(&self) -> &Scopes {
        self.namespace.as_ref().unwrap_or(&self.scopes)
    }

    /// The deletion of an object where it was, which is there now.
    pub(crate) fn gone_to(self, scopes: &Scopes) -> Self {
        Self { went_to: scopes.clone(), ..self }
    }

    pub(crate) fn went_to(&self) -> &Scopes {
        &self.went_to
    }

    /// True where its object has come to another namespace.
    pub(crate) fn comes(&self) -> bool {
        self.namespace.is_none() && !self.moved_from.is_none()
    }

    /// The same change of an object whose id is unique there.
    pub(crate) fn unique_in(self, namespace: &Scopes) -> Self {
        Self { namespace: Some(namespace.clone()), ..self }
    }

    /// The same change, told in these scopes unless it names its own.
    pub(crate) fn told_in(mut self, scopes: &Scopes, moved_from: &Scopes) -> Self {
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
        let Some(fields) = Object::of(&json) else {
            return Err(ChangeError::NotAnObject);
        };
        Self::of(kind, &fields).ok_or_else(|| no_usable_id(fields.get("id").unwrap_or("nothing")))
    }
}

impl fmt::Debug for Change {
    /// Leaves the object out: it may hold what does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Bytes of an id's text. Ids of what is gone are remembered for long, and anybody can name a long one in a path.
const MAX_ID: usize = 256;
/// Bytes of an id as JSON, with its quotes: of control characters each would be six.
const MAX_RAW_ID: usize = 2 * MAX_ID + 2;

/// The text of an id the stock client accepts: it drops messages whose id is falsy, and objects as ids crash it.
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
    fn ids_the_client_throws_away_are_refused() {
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
