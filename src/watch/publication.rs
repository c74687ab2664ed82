//! Publishes what a successful write changed.

use std::{borrow::Cow, fmt::Display, hash::Hash, sync::Arc};

use http::{Method, StatusCode, header};

use super::{
    derive::{DerivedChange, NotPublished, WriteFacts, derive_change, has_failed},
    hints::{self, Transcript},
    live_write::HandlerDecision,
    object_lock::Target,
    request_body::{BodyAction, Format},
    widget_answer::is_adaptable_body,
};
use crate::{
    change::{Change, ChangeKind},
    entity::{Entity, Load, ResponseProblem, Widget},
    error::PublishError,
    hub::{Activity, Owner, WriteContext},
    object::Object,
    scope::Scopes,
};

/// Ancestors of one task that are read from the store.
const MAX_ANCESTORS: usize = 64;

/// What publishing must know of a write's request.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) target: Arc<Target>,
    pub(super) method: Method,
    pub(super) body_action: BodyAction,
    pub(super) format: Format,
    /// The pages that the write may come from, where others can be told from them.
    pub(super) writer: Option<Owner>,
    /// The answer goes to a widget, in the form that it understands.
    pub(super) is_for_widget: bool,
    /// The write counts as ongoing until this is dropped.
    pub(super) activity: Arc<Activity>,
}

/// The result of an entity's load hook.
pub(super) enum Loaded {
    Change(Box<Change>),
    Failed,
    /// The entity has no load hook, or the row's scope is unknown.
    NotAsked,
}

impl Publication {
    pub(super) fn entity(&self) -> &Entity {
        self.target.watcher.publisher.entity(self.target.entity())
    }

    /// What deriving a change needs of request and response.
    pub(super) fn facts<'a>(&'a self, transcript: &Transcript<'a>) -> WriteFacts<'a> {
        let Transcript { parts, request, answer, .. } = *transcript;
        WriteFacts {
            kind: self.target.matched.route.kind,
            path_id: self.target.matched.id.as_deref(),
            body_action: self.body_action,
            moves: self.target.matched.route.moves,
            format: self.format,
            request,
            status: parts.status,
            location: parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()),
            response: answer.ok(),
        }
    }

    /// What the write changed, as far as request and response show. `None` where the write failed, or its change cannot
    /// be derived, or was published before.
    pub(super) fn derive<'a>(&'a self, transcript: &Transcript<'a>) -> Option<DerivedChange<'a>> {
        let derived = match derive_change(self.entity(), self.facts(transcript)) {
            Ok(derived) => derived?,
            Err(reason) => {
                self.not_derived(reason, transcript);
                return None;
            }
        };
        if hints::is_replayed(&transcript.parts.headers) && !self.is_unpublished_add(&derived) {
            self.target.watcher.observer().writes_deduplicated.up();
            return None;
        }
        self.warn_of_oddities(&derived, transcript);
        Some(derived)
    }

    /// Names in the log what pages do not understand of a response from which a change can be derived.
    fn warn_of_oddities(&self, derived: &DerivedChange<'_>, transcript: &Transcript<'_>) {
        let (entity, method) = (self.entity(), self.method.as_str());
        let may_be_odd = entity.widget == Widget::Scheduler && (!derived.is_usual || transcript.is_answer_hidden());
        let oddity = may_be_odd.then(|| transcript.oddity(derived.kind)).flatten();
        let problem = entity.widget.check_response(derived.kind, transcript.parts.status, derived.tid);
        let problem = problem.filter(|problem| *problem == ResponseProblem::Status || !transcript.is_answer_hidden());
        let is_adapted = || transcript.answer.is_ok_and(is_adaptable_body);
        let problem = problem.filter(|_| !(entity.has_widget_answers && is_adapted()));
        if let Some((what, line)) = oddity {
            self.warn_once(("odd", method, what), format_args!(": {line}"));
        } else if let Some(problem) = problem {
            self.warn_once(("response problem", problem), format_args!(": {}", problem.remedy()));
        }
        if derived.kind != ChangeKind::Delete && entity.load.is_none() && derived.object.is_some() {
            if let Some(line) = transcript.half() {
                self.warn_once(("half", method), format_args!(": {line}"));
            }
        }
    }

    /// A cached response may be that of a create that was never published: its process ended right after the commit.
    fn is_unpublished_add(&self, derived: &DerivedChange<'_>) -> bool {
        let is_published = |id: Cow<'_, str>| {
            self.target.watcher.publisher.hub.core.has_published(self.target.entity(), &self.target.scopes, &id)
        };
        derived.kind == ChangeKind::Add && derived.id().is_some_and(|id| !is_published(id))
    }

    /// Counts a write that is answered by a redirect, and warns: it is not broadcast.
    pub(super) fn redirected(&self, status: StatusCode) {
        self.target.watcher.observer().writes_redirected.up();
        self.warn_once(
            ("redirected", self.method.as_str()),
            format_args!(
                " is answered with {}, and is not broadcast; the page's browser goes on to the Location (by GET after 303, \
                 and after any redirect of a POST) and the page takes that answer for success; answer a write with 200 and \
                 JSON, and one that is not allowed with 401 or 403",
                status.as_u16()
            ),
        );
    }

    /// Publishes what the write changed, as the store holds it now.
    pub(super) async fn publish_stored(&self, hook: &Load, transcript: Transcript<'_>, decision: HandlerDecision) {
        if let Some(derived) = self.derive(&transcript) {
            // A row is published in the scopes that it was read in.
            let scopes = if decision.scopes.is_none() { &self.target.scopes } else { &decision.scopes };
            let loaded = self.load(hook, scopes, &derived).await;
            let finds_nothing = matches!(&loaded, Loaded::Change(change) if change.kind() == ChangeKind::Delete);
            if finds_nothing && derived.kind != ChangeKind::Delete {
                let line = hints::finds_nothing(derived.kind);
                self.warn_once(("finds nothing", self.method.as_str()), format_args!(": {line}"));
            }
            if let Loaded::Change(change) = &loaded {
                self.find_places(hook, scopes, change).await;
            }
            self.publish_derived(derived, loaded, decision, &transcript);
        }
    }

    /// Reads where the ancestors of a task stand, as far as the log does not know: which pages may be sent a task, and
    /// when, hangs on that.
    async fn find_places(&self, hook: &Load, scopes: &Scopes, change: &Change) {
        let (core, entity) = (&self.target.watcher.publisher.hub.core, self.target.entity());
        for _ in 0..MAX_ANCESTORS {
            let Some(id) = core.unplaced(entity, change.object()) else { return };
            let log_end = core.log_end();
            let Ok(row) = self.target.load(hook, scopes, (*id).to_owned()).await else { return };
            core.set_place(entity, &id, row.as_deref(), log_end);
        }
    }

    /// Publishes what the write changed: the loaded row, or else what request and response show.
    pub(super) fn publish_derived(
        &self,
        derived: DerivedChange<'_>,
        loaded: Loaded,
        decision: HandlerDecision,
        transcript: &Transcript<'_>,
    ) {
        let change = match loaded {
            Loaded::Change(change) => Ok(*change),
            // Visibility cannot be decided by what the page sent.
            Loaded::Failed if self.entity().is_filtered() && derived.kind != ChangeKind::Delete => {
                return self.not_published("load", &"its load hook failed");
            }
            Loaded::Failed | Loaded::NotAsked => derived.into_change(),
        };
        match change {
            Ok(change) => self.publish(HandlerDecision { changes: vec![change], ..decision }),
            Err(reason) => self.not_derived(reason, transcript),
        }
    }

    /// Whether the page shows what it wrote although the write was refused so, and other objects hang on that.
    pub(super) fn keeps_refused(&self, status: StatusCode) -> bool {
        matches!(status.as_u16(), 400 | 404 | 409 | 410 | 412 | 422) && self.is_in_tree()
    }

    /// The same of a write whose answer says that it failed.
    pub(super) fn keeps_failed(&self, answer: &[u8]) -> bool {
        self.is_in_tree() && has_failed(answer)
    }

    fn is_in_tree(&self) -> bool {
        self.entity().widget.is_tree() && self.target.matched.id.is_some()
    }

    /// Publishes the object of a refused write as the store holds it, or as it was published last.
    pub(super) async fn publish_unchanged(&self) {
        let Target { watcher, matched, scopes, .. } = &*self.target;
        let Some(id) = matched.id.as_deref() else { return };
        let core = &watcher.publisher.hub.core;
        let log_end = core.log_end();
        let is_scopeless = self.entity().scoping.is_some() && scopes.is_none();
        let row = match &self.entity().load {
            Some(hook) if !is_scopeless => self.target.load(hook, scopes, id.to_owned()).await.ok().flatten(),
            _ => core.published_object(self.target.entity(), scopes, id),
        };
        let object = row.as_deref().and_then(Object::of);
        if let Some(change) = object.and_then(|object| Change::of(ChangeKind::Update, &object)) {
            let change = Change { is_refused: true, read_at: Some(log_end), ..change };
            self.publish(HandlerDecision { changes: vec![change], ..HandlerDecision::default() });
        }
    }

    async fn load(&self, hook: &Load, scopes: &Scopes, derived: &DerivedChange<'_>) -> Loaded {
        if self.entity().scoping.is_some() && scopes.is_none() {
            return Loaded::NotAsked;
        }
        let Some(id) = derived.id().map(Cow::into_owned) else { return Loaded::Failed };
        let watcher = &self.target.watcher;
        let log_end = watcher.publisher.hub.core.log_end();
        let row = self.target.load(hook, scopes, id).await;
        let change = row.and_then(|row| {
            derived.loaded(row.as_deref()).ok_or_else(|| "its row is no JSON object with an id".into())
        });
        match change {
            Ok(change) => Loaded::Change(Box::new(Change { read_at: Some(log_end), ..change })),
            Err(error) => {
                watcher.hook_failed("the load hook", self.target.entity(), format_args!("failed: {error}"));
                Loaded::Failed
            }
        }
    }

    pub(super) fn publish(&self, decision: HandlerDecision) {
        if decision.changes.is_empty() {
            return;
        }
        let Target { watcher, matched, scopes: requested, .. } = &*self.target;
        let adds = decision.changes.iter().any(|change| change.kind() == ChangeKind::Add);
        // A write with an id in its path held its object's lock, so everything published before it is older.
        let began = self.activity.since().filter(|_| adds && matched.id.is_none());
        let write = WriteContext { began, writer: self.writer, ..self.activity.context() };
        let scopes = if decision.scopes.is_none() { requested } else { &decision.scopes };
        let before = self.target.take_before();
        let scoped = decision.changes.into_iter().map(|change| {
            let mut change = change.in_scopes(scopes, &decision.moved_from);
            // In other scopes than the request's, the same id names another object.
            let is_here = requested.is_none() || !requested.common(change.scopes()).is_none();
            let is_target = is_here && matched.id.as_deref() == Some(change.id());
            change.is_target = is_target;
            if is_target {
                change.before = before.clone();
            }
            // An object that leaves the request's scopes is found in the scopes it moves to.
            let stays = is_here && !requested.is_none() && !requested.intersects(change.former_scopes());
            if stays { change.unique_in(requested) } else { change }
        });
        let changes: Vec<Change> = scoped.collect();
        if let Err(error) = watcher.publisher.publish(self.target.entity(), &changes, write) {
            let is_scopeless = matches!(error, PublishError::NoScope { .. });
            let clue = if is_scopeless { self.scope_clue() } else { "" };
            self.not_published(cause_of(&error), &format_args!("{error}{clue}"));
        }
    }

    /// Publishes changes of other entities, in their order.
    pub(super) fn publish_elsewhere(&self, changes: Vec<(Arc<str>, Change)>, decision: &HandlerDecision) {
        let publisher = &self.target.watcher.publisher;
        let scopes = if decision.scopes.is_none() { &self.target.scopes } else { &decision.scopes };
        for (name, change) in changes {
            let Some(entity) = publisher.find(&name) else {
                self.not_published(
                    ("entity", &name),
                    &format_args!("there is no entity {name:?}; give its name as configured"),
                );
                continue;
            };
            let change = match publisher.entity(entity).scoping {
                Some(_) => change.in_scopes(scopes, &decision.moved_from),
                None => change,
            };
            let write = WriteContext { began: None, ..self.activity.context() };
            if let Err(error) = publisher.publish(entity, &[change], write) {
                self.not_published(cause_of(&error), &error);
            }
        }
    }

    /// Why a write may have no scope although its entity has a hook for that.
    fn scope_clue(&self) -> &'static str {
        if self.entity().scoping.as_ref().is_some_and(|scoping| scoping.of_request.is_some()) {
            " (scope_from has found none in the request: what it reads must be put there by a layer outside the live layer)"
        } else {
            ""
        }
    }

    fn not_derived(&self, reason: NotPublished, transcript: &Transcript<'_>) {
        let clues = transcript.clues(reason, self.entity());
        self.not_published(reason, &format_args!("{reason}{clues}"));
    }

    pub(super) fn not_published(&self, what: impl Hash, why: &dyn Display) {
        self.target.watcher.observer().writes_unpublished.up();
        self.warn_once(
            ("not published", self.method.as_str(), what),
            format_args!(": a successful write is not broadcast: {why}"),
        );
    }

    /// Warns once of each `what` on a route; the line begins with method and route.
    fn warn_once(&self, what: impl Hash, line: std::fmt::Arguments<'_>) {
        let (method, pattern) = (&self.method, &self.target.matched.route.pattern);
        self.target.watcher.observer().warn_once_for((what, pattern), format_args!("{method} {pattern}{line}"));
    }
}

/// What the log names once: each sort of error, and of those that would break pages each reason that holds nothing of a request.
fn cause_of(error: &PublishError) -> impl Hash + use<> {
    let reason = match error {
        PublishError::BreaksPages { reason: Cow::Borrowed(reason), .. } => Some(*reason),
        _ => None,
    };
    (std::mem::discriminant(error), reason)
}
