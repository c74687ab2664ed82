//! One watched write, from its request to the response that goes on to the client.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::OptionFuture};
use http::{Method, Response, StatusCode, request, response::Parts};
use http_body::Body;

use super::{
    capture::{Capture, Collected, Forwarded, collect},
    hints::{self, Obstacle, Transcript},
    keyed_lock::Access,
    live_write::{HandlerDecision, LiveWrite},
    modes::is_editing,
    object_lock::{LockFuture, Target},
    publication::{Loaded, Publication},
    request_body::{BodyAction, Format},
    route::Matched,
    watcher::Watcher,
    widget_answer::{WidgetAnswer, is_adaptable, is_for_widget},
};
use crate::{change::ChangeKind, hub::Missed, scope::Scopes};

#[derive(Debug)]
pub(crate) struct Exchange {
    publication: Publication,
    /// The copy of the request's body.
    pub(crate) capture: Capture,
    without_body: bool,
    live_write: LiveWrite,
}

impl Exchange {
    /// Begins to watch a write, and gives its handler a [`LiveWrite`].
    pub(crate) fn begin<B: Body>(
        watcher: &Arc<Watcher>,
        matched: Matched,
        request: &mut request::Parts,
        body: &B,
    ) -> Self {
        let live_write = LiveWrite::new(watcher.identity(&matched), request.extensions.get());
        if live_write.has_outer() {
            watcher.diagnosis().watched_by_two(&request.method, &matched.route.pattern);
        }
        if watcher.diagnosis().write_watched(&request.method, &matched.route.pattern) {
            watcher.await_page();
        }
        request.extensions.insert(live_write.clone());
        let activity = Arc::new(watcher.publisher.hub.start_write(matched.route.entity));
        let capture = Capture::new(watcher.limits.body_bytes, Arc::downgrade(&activity));
        let without_body = body.is_end_stream() || body.size_hint().exact() == Some(0);
        if without_body {
            capture.arrive();
        }
        let access = match (without_body, matched.route.kind) {
            (false, _) => Access::Arrived,
            (true, ChangeKind::Delete) => Access::BodilessDelete,
            (true, ChangeKind::Add | ChangeKind::Update) => Access::Bodiless,
        };
        let writer = watcher.writer(matched.route.entity, &request.headers);
        let body_action = body_action(watcher, &matched, request);
        let scopes = matched.scopes.and(&scopes_of(watcher, &matched, request));
        let has_widget_answers = watcher.publisher.entity(matched.route.entity).has_widget_answers;
        let publication = Publication {
            target: Arc::new(Target::new(watcher.clone(), matched, scopes, access)),
            is_for_widget: has_widget_answers && is_for_widget(&request.headers),
            body_action,
            format: Format::of(&request.headers),
            method: request.method.clone(),
            writer,
            activity,
        };
        Self { publication, capture, without_body, live_write }
    }

    /// The object's lock, for the request's body to wait for. A write without a body waits in [`run`](Self::run), and
    /// most adds need no lock.
    pub(crate) fn lock(&self) -> Option<LockFuture> {
        self.lock_if(!self.without_body)
    }

    fn lock_if(&self, waits_here: bool) -> Option<LockFuture> {
        let Publication { target, .. } = &self.publication;
        (waits_here && target.has_lock()).then(|| LockFuture::Unpolled(target.clone()))
    }

    /// Runs the inner service to its response, and publishes what it changed before the response goes on.
    pub(crate) fn run<F, B, E>(self, inner: F) -> impl Future<Output = Result<Response<Forwarded<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body,
    {
        let lock = OptionFuture::from(self.lock_if(self.without_body));
        // Each future is gone before the next begins, so they take the same room.
        lock.then(|_| inner).then(|result| async move {
            let Publication { target, activity, .. } = &self.publication;
            match &result {
                Ok(response) if is_refusal(response.status()) && self.publication.keeps_refused(response.status()) => {
                    activity.confirm();
                }
                Ok(response) if is_refusal(response.status()) => {
                    let key = target.key();
                    activity.refuse(match &key {
                        _ if !is_refused_by_store(response.status()) => Missed::Nothing,
                        Some(key) => Missed::Object(key),
                        None => Missed::Adds,
                    });
                }
                // Something may have changed, even behind an error.
                Ok(_) | Err(_) => activity.confirm(),
            }
            let result = match result {
                Ok(response) if self.publication.keeps_refused(response.status()) => {
                    // Boxed, since it is rare.
                    Box::pin(self.publication.publish_unchanged()).await;
                    Ok(self.publish(response).await)
                }
                Ok(response) => Ok(self.publish(response).await),
                Err(error) => Err(error),
            };
            // The request's body may live on elsewhere, and must not keep the lock.
            target.release();
            result
        })
    }

    async fn publish<B: Body>(&self, response: Response<B>) -> Response<Forwarded<B>> {
        let publication = &self.publication;
        let (parts, body) = response.into_parts();
        let mut decision = self.live_write.take();
        if !parts.status.is_success() {
            if hints::is_redirect(parts.status) {
                publication.redirected(parts.status);
            }
            return Response::from_parts(parts, Forwarded::Unread(body));
        }
        let elsewhere = std::mem::take(&mut decision.elsewhere);
        let (gone, changed): (Vec<_>, Vec<_>) =
            elsewhere.into_iter().partition(|(_, change)| change.kind() == ChangeKind::Delete);
        publication.publish_elsewhere(gone, &decision);
        let (scopes, moved_from) = (decision.scopes.clone(), decision.moved_from.clone());
        let response = self.publish_own(parts, body, decision).await;
        publication.publish_elsewhere(changed, &HandlerDecision { scopes, moved_from, ..HandlerDecision::default() });
        response
    }

    /// Publishes what a successful write changed of its own entity.
    async fn publish_own<B: Body>(
        &self,
        parts: Parts,
        body: B,
        mut decision: HandlerDecision,
    ) -> Response<Forwarded<B>> {
        let publication = &self.publication;
        let is_decided = decision.skip || !decision.changes.is_empty();
        if is_decided {
            publication.publish(std::mem::take(&mut decision));
        }
        let adapts = publication.is_for_widget && is_adaptable(parts.status);
        if is_decided && !adapts {
            return Response::from_parts(parts, Forwarded::Unread(body));
        }
        if matches!(parts.status, StatusCode::ACCEPTED | StatusCode::MULTI_STATUS) {
            publication.not_published(
                "status",
                &"202 and 207 do not mean that the write is complete; publish from the handler with LiveWrite, or later \
                  with LiveUpdates::publish",
            );
            return Response::from_parts(parts, Forwarded::Unread(body));
        }
        let (forwarded, answer) = self.read_answer(&parts, body).await;
        if !is_decided && answer.as_deref().is_ok_and(|answer| publication.keeps_failed(answer)) {
            Box::pin(publication.publish_unchanged()).await;
            return Response::from_parts(parts, forwarded);
        }
        if let Forwarded::Collected(Collected { error: Some(_), .. }) = &forwarded {
            if !is_decided {
                publication.not_published("broken", &"the inner service's answer broke off");
            }
            return Response::from_parts(parts, forwarded);
        }
        let request = self.capture.take();
        let transcript = Transcript {
            parts: &parts,
            request: request.as_deref(),
            request_obstacle: self.request_obstacle(request.is_some()),
            answer: answer.as_deref().map_err(|obstacle| *obstacle),
            limit: publication.target.watcher.limits.body_bytes,
        };
        let adapted = || WidgetAnswer::of(publication.entity(), publication.facts(&transcript));
        let adapted = adapts.then(adapted).flatten();
        if !is_decided {
            match &publication.entity().load {
                None => {
                    if let Some(derived) = publication.derive(&transcript) {
                        publication.publish_derived(derived, Loaded::NotAsked, decision, &transcript);
                    }
                }
                // Boxed, so that writes without a hook take no room for it.
                Some(hook) => Box::pin(publication.publish_stored(hook, transcript, decision)).await,
            }
        }
        match adapted {
            Some(adapted) => adapted.apply(parts, forwarded),
            None => Response::from_parts(parts, forwarded),
        }
    }

    /// Reads a response body ahead that may name the change: JSON or empty, neither too large nor too slow.
    async fn read_answer<B: Body>(&self, parts: &Parts, body: B) -> (Forwarded<B>, Result<Bytes, Obstacle>) {
        if body.is_end_stream() {
            return (Forwarded::Unread(body), Ok(Bytes::new()));
        }
        match Format::of(&parts.headers) {
            Format::Json => {}
            Format::Encoded => return (Forwarded::Unread(body), Err(Obstacle::Encoded)),
            Format::Form | Format::Other => return (Forwarded::Unread(body), Err(Obstacle::Type)),
        }
        let limits = &self.publication.target.watcher.limits;
        let collected = collect(body, limits.body_bytes, limits.response_time).await;
        let why_not = if collected.is_slow { Obstacle::TooSlow } else { Obstacle::TooLarge };
        let whole = collected.whole().ok_or(why_not);
        (Forwarded::Collected(collected), whole)
    }

    /// Why the request's body cannot be read, if so.
    fn request_obstacle(&self, is_whole: bool) -> Option<Obstacle> {
        match self.publication.format {
            _ if self.without_body => None,
            _ if self.capture.is_over() => Some(Obstacle::TooLarge),
            _ if !is_whole => Some(Obstacle::Unread),
            Format::Encoded => Some(Obstacle::Encoded),
            Format::Other => Some(Obstacle::Type),
            Format::Json | Format::Form => None,
        }
    }
}

/// Whether a write's body may name its action. An entity with a route for such writes has them nowhere else.
fn body_action(watcher: &Watcher, matched: &Matched, request: &request::Parts) -> BodyAction {
    let is_announced = || request.method == Method::POST && is_editing(request.uri.query());
    let has_own_route = || watcher.publisher.entity(matched.route.entity).routes.iter().any(|route| route.is_mode);
    match matched.route.is_mode {
        true => BodyAction::Expected,
        false if is_announced() && !has_own_route() => BodyAction::Announced,
        false => BodyAction::None,
    }
}

/// The scopes that the entity's hook finds in a request.
fn scopes_of(watcher: &Watcher, matched: &Matched, request: &request::Parts) -> Scopes {
    let entity = matched.route.entity;
    let scoping = watcher.publisher.entity(entity).scoping.as_ref();
    let Some(of_request) = scoping.and_then(|scoping| scoping.of_request.as_ref()) else { return Scopes::None };
    let scopes = std::panic::catch_unwind(AssertUnwindSafe(|| of_request(request)));
    scopes.unwrap_or_else(|_| {
        let failure = format_args!("panicked, and so this write has no scope from it");
        watcher.hook_failed("scope_from", entity, failure);
        Scopes::None
    })
}

/// A response that means: refused, and nothing has changed. 408 may follow a commit, and many servers answer a saved
/// form with 303.
fn is_refusal(status: StatusCode) -> bool {
    let may_have_changed = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::SEE_OTHER);
    !may_have_changed && (status.is_informational() || status.is_redirection() || status.is_client_error())
}

/// Whether the store itself refused a write: then it is a page's save. Writes that fail authorization cost nothing.
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
