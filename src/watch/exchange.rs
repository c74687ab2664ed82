//! One watched write, from its request to what is published of it.

use std::{borrow::Cow, future::Future, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Response, StatusCode, header, request, response::Parts};
use http_body::Body;

use super::{
    Watcher,
    capture::{Capture, Collected, Rest, collect},
    derive::{Draft, RequestFacts, ResponseFacts, Verdict, judge},
    hints::{self, Exchanged, Obstacle},
    keyed_lock::Access,
    names,
    request_body::{Format, is_editing},
    route::Matched,
    turn::{Ordered, Taking, Target},
    write::{LiveWrite, Said},
};
use crate::{
    change::{Before, Change, ChangeKind},
    entity::{EntityIndex, Load, ResponseProblem, Widget},
    error::PublishError,
    hook::guarded,
    hub::{Activity, Missed},
    scope::Scopes,
};

/// One watched write, from its request to what it is told as.
#[derive(Debug)]
pub(crate) struct Write {
    target: Arc<Target>,
    method: Method,
    editing: bool,
    format: Format,
    without_body: bool,
    capture: Capture,
    live_write: LiveWrite,
    /// A page is saving.
    activity: Arc<Activity>,
}

/// How the response's body goes on to the client.
pub(crate) enum Answer<B: Body> {
    /// Untouched.
    AsItCame(B),
    /// Read ahead; the flag says whether it had promised its length.
    ReadAhead(Collected<B>, bool),
}

/// What an entity's load hook came to.
enum Loaded {
    Change(Box<Change>),
    Failed,
    /// There is none, or nobody knows in which scopes it is to read.
    Unasked,
}

impl Watcher {
    /// Begins to watch a write, and gives its handler a say.
    pub(crate) fn begin<B: Body>(self: &Arc<Self>, matched: Matched, request: &mut request::Parts, body: &B) -> Write {
        let entity = matched.route.entity;
        let live_write = LiveWrite::new(self.watched(&matched), request.extensions.get());
        if live_write.has_outer() {
            self.diagnosis().watched_by_two(&request.method, &matched.route.pattern);
        }
        if self.diagnosis().write_watched(&request.method, &matched.route.pattern) {
            self.await_page();
        }
        request.extensions.insert(live_write.clone());
        let activity = Arc::new(self.publisher.hub.write_comes(entity));
        let capture = Capture::new(self.limits.body_bytes, Arc::downgrade(&activity));
        let without_body = body.is_end_stream() || body.size_hint().exact() == Some(0);
        if without_body {
            capture.arrive();
        }
        let access = match (without_body, matched.route.kind) {
            (false, _) => Access::Arrived,
            (true, ChangeKind::Delete) => Access::BodilessDelete,
            (true, ChangeKind::Add | ChangeKind::Update) => Access::Bodiless,
        };
        let scopes = matched.scopes.and(&self.scopes_of(entity, request));
        Write {
            capture,
            activity,
            editing: request.method == Method::POST && is_editing(request.uri.query()),
            format: Format::of(&request.headers),
            method: request.method.clone(),
            without_body,
            target: Arc::new(Target::new(self.clone(), matched, scopes, access)),
            live_write,
        }
    }

    /// The scopes that the entity's hook finds in a request.
    fn scopes_of(&self, entity: EntityIndex, request: &request::Parts) -> Scopes {
        let scoping = self.publisher.entity(entity).scoping.as_ref();
        let Some(of_request) = scoping.and_then(|scoping| scoping.of_request.as_ref()) else {
            return Scopes::None;
        };
        let scopes = std::panic::catch_unwind(AssertUnwindSafe(|| of_request(request)));
        scopes.unwrap_or_else(|_| {
            self.observer().hooks_failed.up();
            let name = &self.publisher.entity(entity).name;
            self.observer()
                .warn(format_args!("scope_from of {name:?} panicked, and so this write has no scope from it"));
            Scopes::None
        })
    }
}

/// A request that was refused, and has changed nothing. A time limit may have run out behind a commit, and 303 is what
/// many a form is answered with that was saved.
fn is_refusal(status: StatusCode) -> bool {
    let may_have_changed = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::SEE_OTHER);
    !may_have_changed && (status.is_informational() || status.is_redirection() || status.is_client_error())
}

/// Whether the store itself refused a write: then it is a page's save. One that nobody let in costs others nothing.
fn is_refused_by_store(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::CONFLICT
            | StatusCode::GONE
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

impl Write {
    fn watcher(&self) -> &Watcher {
        &self.target.watcher
    }

    fn matched(&self) -> &Matched {
        &self.target.matched
    }

    /// The ear for the request's body.
    pub(crate) fn capture(&self) -> Capture {
        self.capture.clone()
    }

    /// Takes this write's turn, for the request's body to wait for. An add waits for nobody, and without a body the
    /// write itself waits.
    pub(crate) fn turn(&self) -> Option<Taking> {
        let is_ordered = self.target.matched.id.is_some() && !self.without_body;
        is_ordered.then(|| Taking::Unasked(self.target.clone()))
    }

    /// Runs the inner service to its answer and tells what it did before the answer goes on.
    pub(crate) fn run<F, B, E>(self, inner: F) -> impl Future<Output = Result<Response<Answer<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        let is_ordered = self.target.matched.id.is_some() && self.without_body;
        let turn = is_ordered.then(|| Taking::Unasked(self.target.clone()));
        // The inner future is gone before what follows begins: the two take the same room.
        Ordered::new(turn, inner).then(|answered| async move {
            match &answered {
                Ok(response) if is_refusal(response.status()) => {
                    let key = self.target.key();
                    self.activity.refuse(match &key {
                        _ if !is_refused_by_store(response.status()) => Missed::Nothing,
                        Some(key) => Missed::Object(key),
                        None => Missed::Adds,
                    });
                }
                // Whatever it is, something may have changed.
                Ok(_) | Err(_) => self.activity.confirm(),
            }
            let answer = match answered {
                Ok(response) => Ok(self.answered(response).await),
                Err(error) => Err(error),
            };
            // The request's body may still be held by somebody, and must not keep the turn with it.
            self.target.give_turn_back();
            answer
        })
    }

    async fn answered<B: Body>(&self, response: Response<B>) -> Response<Answer<B>> {
        let (parts, body) = response.into_parts();
        let said = self.live_write.take();
        if !parts.status.is_success() {
            if hints::is_redirect(parts.status) {
                self.redirected(parts.status);
            }
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        if said.skip || !said.changes.is_empty() {
            self.publish(said);
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        // Neither says that anything is done.
        if matches!(parts.status, StatusCode::ACCEPTED | StatusCode::MULTI_STATUS) {
            self.untold(
                "status",
                "202 and 207 do not say that the write is done; publish from the handler with LiveWrite, or later \
                 with LiveUpdates::publish",
            );
            return Response::from_parts(parts, Answer::AsItCame(body));
        }
        let (answer, whole, answer_obstacle) = self.read_answer(&parts, body).await;
        if let Answer::ReadAhead(Collected { rest: Rest::Broken(_), .. }, _) = &answer {
            self.untold("broken", "the inner service's answer broke off");
        } else {
            let request = self.capture.take();
            let request_obstacle = self.request_obstacle(request.is_some());
            let limit = self.watcher().limits.body_bytes;
            let (request, whole) = (request.as_deref(), whole.as_deref());
            let seen = Exchanged { parts: &parts, request, answer: whole, request_obstacle, answer_obstacle, limit };
            match &self.watcher().publisher.entity(self.matched().route.entity).load {
                None => {
                    if let Some(draft) = self.draft(&seen) {
                        self.tell(draft, Loaded::Unasked, said, &seen);
                    }
                }
                // Apart, so that writes without one are no larger for it.
                Some(hook) => Box::pin(self.tell_stored(hook, seen, said)).await,
            }
        }
        Response::from_parts(parts, answer)
    }

    /// Reads the answer where it can say something: JSON or empty, neither too large nor too slow.
    async fn read_answer<B: Body>(&self, parts: &Parts, body: B) -> (Answer<B>, Option<Bytes>, Option<Obstacle>) {
        if body.is_end_stream() {
            return (Answer::AsItCame(body), Some(Bytes::new()), None);
        }
        match Format::of(&parts.headers) {
            Format::Json => {}
            Format::Encoded => return (Answer::AsItCame(body), None, Some(Obstacle::Encoded)),
            Format::Form | Format::Other => return (Answer::AsItCame(body), None, Some(Obstacle::Type)),
        }
        let limits = &self.watcher().limits;
        let exact = body.size_hint().exact().is_some();
        let collected = collect(body, limits.body_bytes, limits.response_time).await;
        let whole = collected.whole();
        let obstacle = match &collected.rest {
            Rest::More(_) if collected.is_slow => Some(Obstacle::TooSlow),
            Rest::More(_) => Some(Obstacle::TooLarge),
            Rest::End | Rest::Broken(_) => None,
        };
        (Answer::ReadAhead(collected, exact), whole, obstacle)
    }

    /// Why the request's body cannot be read, if that is so.
    fn request_obstacle(&self, is_whole: bool) -> Option<Obstacle> {
        match self.format {
            _ if self.without_body => None,
            _ if self.capture.is_over() => Some(Obstacle::TooLarge),
            _ if !is_whole => Some(Obstacle::Unread),
            Format::Encoded => Some(Obstacle::Encoded),
            Format::Other => Some(Obstacle::Type),
            Format::Json | Format::Form => None,
        }
    }

    /// What the write changed, as far as request and answer tell; `None`, too, where that was published before.
    fn draft<'a>(&'a self, seen: &Exchanged<'a>) -> Option<Draft<'a>> {
        let parts = seen.parts;
        let entity = self.watcher().publisher.entity(self.matched().route.entity);
        let verdict = judge(
            entity,
            RequestFacts {
                kind: self.matched().route.kind,
                path_id: self.matched().id.as_deref(),
                editing: self.editing,
                format: self.format,
                body: seen.request,
            },
            ResponseFacts {
                status: parts.status,
                location: parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()),
                body: seen.answer,
            },
        );
        let draft = match verdict {
            Verdict::Changed(draft) => draft,
            Verdict::Failed => return None,
            Verdict::Untold(reason) => {
                self.untold(reason, &format!("{}{}", reason.remedy(), seen.clues(reason, entity)));
                return None;
            }
        };
        if hints::is_replayed(&parts.headers) && !self.is_news(&draft) {
            self.watcher().observer().writes_replayed.up();
            return None;
        }
        self.look_at(&draft, seen);
        Some(draft)
    }

    /// Names in the log what a page does not understand of an answer that is enough to publish.
    fn look_at(&self, draft: &Draft<'_>, seen: &Exchanged<'_>) {
        let entity = self.watcher().publisher.entity(self.matched().route.entity);
        let (observer, method, pattern) = (self.watcher().observer(), &self.method, &self.matched().route.pattern);
        let may_be_odd = entity.widget == Widget::Scheduler && (!draft.is_usual || seen.is_answer_hidden());
        let oddity = may_be_odd.then(|| seen.oddity()).flatten();
        let problem = entity.widget.check_response(draft.kind, seen.parts.status, draft.tid);
        let problem = problem.filter(|problem| *problem == ResponseProblem::Status || !seen.is_answer_hidden());
        if let Some((what, line)) = oddity {
            observer.warn_once(("odd", pattern, method.as_str(), what), format_args!("{method} {pattern}: {line}"));
        } else if let Some(problem) = problem {
            observer
                .warn_once(("response", pattern, problem), format_args!("{method} {pattern}: {}", problem.remedy()));
        }
        if draft.kind != ChangeKind::Delete && entity.load.is_none() && draft.object.is_some() {
            if let Some(line) = seen.half() {
                observer.warn_once(("half", pattern, method.as_str()), format_args!("{method} {pattern}: {line}"));
            }
        }
    }

    /// Whether an answer from a cache is of a create that was never published: its process ended right after the commit.
    fn is_news(&self, draft: &Draft<'_>) -> bool {
        let (hub, entity) = (&self.watcher().publisher.hub, self.matched().route.entity);
        draft.kind == ChangeKind::Add
            && draft.id().is_some_and(|id| !hub.has_published(entity, &self.target.scopes, &id))
    }

    /// A write that is answered by a redirect is not broadcast.
    fn redirected(&self, status: StatusCode) {
        let (observer, method, pattern) = (self.watcher().observer(), &self.method, &self.matched().route.pattern);
        observer.writes_redirected.up();
        observer.warn_once(
            ("redirected", pattern, method.as_str()),
            format_args!(
                "{method} {pattern} is answered with {}, and is not broadcast; the page's browser goes on to the \
                 Location (by GET after 303, and after any redirect of a POST) and the page takes that answer for success; \
                 answer a write with 200 and JSON, and one that is not allowed with 401 or 403",
                status.as_u16()
            ),
        );
    }

    async fn tell_stored(&self, hook: &Load, seen: Exchanged<'_>, said: Said) {
        if let Some(draft) = self.draft(&seen) {
            // What is read is published in the scopes that it was read in.
            let scopes = if said.scopes.is_none() { &self.target.scopes } else { &said.scopes };
            let loaded = self.load(hook, scopes, &draft).await;
            let finds_nothing = matches!(&loaded, Loaded::Change(change) if change.kind() == ChangeKind::Delete);
            if finds_nothing && draft.kind != ChangeKind::Delete {
                let pattern = &self.matched().route.pattern;
                self.watcher().observer().warn_once(
                    ("finds nothing", pattern, self.method.as_str()),
                    format_args!("{} {pattern}: {}", self.method, hints::finds_nothing(draft.kind)),
                );
            }
            self.tell(draft, loaded, said, &seen);
        }
    }

    /// Tells what the write changed: as the store has it, or else as request and answer tell.
    fn tell(&self, draft: Draft<'_>, loaded: Loaded, said: Said, seen: &Exchanged<'_>) {
        let entity = self.watcher().publisher.entity(self.matched().route.entity);
        let change = match loaded {
            Loaded::Change(change) => Ok(*change),
            // Who may see it cannot be told from what was sent.
            Loaded::Failed if entity.is_filtered() && draft.kind != ChangeKind::Delete => {
                return self.untold("load", "its load hook failed");
            }
            Loaded::Failed | Loaded::Unasked => draft.into_change(),
        };
        match change {
            Ok(change) => self.publish(Said { changes: vec![change], ..said }),
            Err(reason) => self.untold(reason, &format!("{}{}", reason.remedy(), seen.clues(reason, entity))),
        }
    }

    /// What the store holds now, as the entity's hook tells.
    async fn load(&self, hook: &Load, scopes: &Scopes, draft: &Draft<'_>) -> Loaded {
        let is_scoped = self.watcher().publisher.entity(self.matched().route.entity).scoping.is_some();
        // Nobody knows whose row it is.
        if is_scoped && scopes.is_none() {
            return Loaded::Unasked;
        }
        let Some(id) = draft.id().map(Cow::into_owned) else {
            return Loaded::Failed;
        };
        let head = self.watcher().publisher.hub.head();
        let failure = match guarded(self.watcher().limits.hook, || hook(names(scopes), id)).await {
            Ok(Ok(row)) => match draft.loaded(row.as_deref()) {
                Some(change) => return Loaded::Change(Box::new(change.read_at(head))),
                None => "its row is no JSON object with an id".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        self.watcher().observer().hooks_failed.up();
        let name = &self.watcher().publisher.entity(self.matched().route.entity).name;
        self.watcher().observer().warn(format_args!("the load hook of {name:?} failed: {failure}"));
        Loaded::Failed
    }

    fn publish(&self, said: Said) {
        if said.changes.is_empty() {
            return;
        }
        let Target { matched, scopes: asked, .. } = &*self.target;
        let adds = said.changes.iter().any(|change| change.kind() == ChangeKind::Add);
        // With an id in the path the write had its turn: what was told before is older.
        let began = self.activity.since().filter(|_| adds && matched.id.is_none());
        let scopes = if said.scopes.is_none() { asked } else { &said.scopes };
        let before = self.target.take_before();
        let told = said.changes.into_iter().map(|change| {
            let change = change.in_scopes(scopes, &said.moved_from);
            // What is told in other scopes than the request's is another object, which may have the same id.
            let is_here = asked.is_none() || !asked.common(change.scopes()).is_none();
            let is_meant = is_here && matched.id.as_deref() == Some(change.id());
            let change = change.after(if is_meant { before.clone() } else { Before::Unread });
            // What leaves the scopes of requests is found where it comes to.
            let stays = is_here && !asked.is_none() && !asked.admit(change.former_scopes());
            if stays { change.unique_in(asked) } else { change }
        });
        let told: Vec<Change> = told.collect();
        if let Err(error) = self.watcher().publisher.publish(matched.route.entity, &told, began) {
            let is_scopeless = matches!(error, PublishError::NoScope { .. });
            let clue = if is_scopeless { self.scope_clue() } else { "" };
            self.untold(std::mem::discriminant(&error), &format!("{error}{clue}"));
        }
    }

    /// Why a write may have no scope although its entity has a hook for that.
    fn scope_clue(&self) -> &'static str {
        let scoping = self.watcher().publisher.entity(self.matched().route.entity).scoping.as_ref();
        if scoping.is_some_and(|scoping| scoping.of_request.is_some()) {
            " (scope_from has found none in the request: what it reads must be put there by a layer outside the live layer)"
        } else {
            ""
        }
    }

    fn untold(&self, what: impl std::hash::Hash, why: &str) {
        let observer = self.watcher().observer();
        observer.writes_unpublished.up();
        observer.warn_once(
            ("untold", &self.matched().route.pattern, self.method.as_str(), what),
            format_args!(
                "{} {}: a successful write is not told to pages: {why}",
                self.method,
                self.matched().route.pattern
            ),
        );
    }
}
