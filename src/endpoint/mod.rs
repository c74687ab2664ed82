//! The endpoint: one path for the handshake, the socket and calls.

mod http_calls;
pub(crate) mod key;
pub(crate) mod origin;
mod page_data;
mod responses;
pub(crate) mod upgrade;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use hyper::upgrade::Upgraded;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

pub(crate) use self::page_data::PageData;
use self::{
    key::{Keys, PageKey, PresentedKey, Seal},
    origin::Origins,
    responses::{Welcome, error, forbidden},
    upgrade::{Refusal, Upgrade},
};
use crate::{
    auth::{AuthError, Identity, header_token, query_token},
    body::EndpointBody,
    connection::{self, AcceptedClient, AccessTerms, Connections, LimitReached},
    epoch::{Epoch, Position},
    hub::{Delivery, ResumeFrom, SessionId},
    observe::Observer,
    random,
    revalidation::{RevalidationKeeps, RevalidationRequest},
    sequence::Sequence,
};

/// Bounds of refusals and keys.
#[derive(Clone, Debug)]
pub(crate) struct EndpointLimits {
    /// Refusals that are delayed at one time; beyond that, sockets are refused at once.
    pub(crate) delayed_refusals: usize,
    /// Longest delay of a refusal for a temporary reason.
    pub(crate) refusal_delay: Duration,
    pub(crate) sealed_key_lifetime: Duration,
    /// Which parts of a socket's request are kept for its revalidation.
    pub(crate) revalidation: RevalidationKeeps,
}

/// A longer address of a socket is refused, since its query is kept as long as the socket is open.
const MAX_QUERY: usize = 16 * 1024;

/// A denied socket is closed after a random time between these two, which halves the rate of a client that retries every
/// two seconds.
const DENIED_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

const ALLOWED: &str = "GET, HEAD, POST, OPTIONS";

/// Answers every request to its path.
pub(crate) struct Endpoint {
    path: String,
    origins: Origins,
    limits: EndpointLimits,
    refusals: Arc<Semaphore>,
    connections: Arc<Connections>,
    epoch: Epoch,
    keys: Keys,
    data: Option<PageData>,
}

impl Endpoint {
    pub(crate) fn new(
        path: String,
        origins: Origins,
        seal: Option<Seal>,
        limits: EndpointLimits,
        connections: Arc<Connections>,
        epoch: Epoch,
    ) -> Self {
        Self {
            keys: Keys::new(seal, &path, limits.sealed_key_lifetime, epoch.positions),
            path,
            origins,
            refusals: Arc::new(Semaphore::new(limits.delayed_refusals)),
            limits,
            connections,
            epoch,
            data: None,
        }
    }

    /// With what the application tells each page.
    pub(crate) fn with_data(self, data: Option<PageData>) -> Self {
        Self { data, ..self }
    }

    /// True for the endpoint's own path, with or without a trailing slash.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str()).is_some_and(|rest| matches!(rest, "" | "/"))
    }

    pub(crate) async fn respond<B: Body>(self: Arc<Self>, request: Request<B>) -> Response<EndpointBody> {
        let (mut parts, body) = request.into_parts();
        self.connections.diagnosis().endpoint_reached();
        match parts.method {
            Method::GET if upgrade::is_wanted(&parts) => self.socket(&mut parts).await,
            Method::GET | Method::HEAD => self.handshake(&parts, true).await,
            Method::CONNECT => self.refuse_upgrade(upgrade::EXTENDED_CONNECT),
            _ => self.respond_without_socket(&parts, body).await,
        }
    }

    /// Answers requests of pages that only make calls.
    pub(crate) async fn respond_to_calls<B: Body>(self: Arc<Self>, request: Request<B>) -> Response<EndpointBody> {
        let (parts, body) = request.into_parts();
        match parts.method {
            Method::GET | Method::HEAD => self.handshake(&parts, false).await,
            _ => self.respond_without_socket(&parts, body).await,
        }
    }

    async fn respond_without_socket<B: Body>(&self, parts: &Parts, body: B) -> Response<EndpointBody> {
        match parts.method {
            Method::POST => self.calls(parts, body).await,
            Method::OPTIONS => {
                if parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
                    self.connections.diagnosis().preflight();
                }
                let mut response = Response::new(EndpointBody::default());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
                response
            }
            _ => {
                let mut response = error(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this is the live updates endpoint: GET for handshake and socket, POST for calls",
                );
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
                response
            }
        }
    }

    /// Answers a page that is loaded. One without a socket gets no key, unless the key is sealed, and so may outlive its
    /// token.
    async fn handshake(&self, parts: &Parts, has_socket: bool) -> Response<EndpointBody> {
        if self.is_foreign(parts) {
            return forbidden();
        }
        let presented = self.keys.read(header_token(&parts.headers));
        // Taken before authentication: everything published from now on must reach this page.
        let sequence = self.connections.hub().core.handshake(Instant::now());
        match self.authenticated(&presented, parts).await.0 {
            // A temporary failure is no reason to refuse: the page makes no second handshake. Its socket is authenticated
            // anew.
            verdict @ (Ok(_) | Err(AuthError::Unavailable)) => {
                self.observer().handshakes.up();
                let identity = verdict.as_ref().ok();
                let key = (has_socket || self.keys.are_sealed()).then(|| self.key(&presented, identity, sequence));
                let api = self.connections.calls.as_ref().map(|calls| &*calls.methods.api);
                let data = self.data_of(identity).await;
                Welcome { api, data: data.as_deref(), has_socket, key: key.flatten().as_deref() }.response()
            }
            Err(AuthError::Denied | AuthError::Expired) => {
                self.observer().handshakes_denied.up();
                forbidden()
            }
        }
    }

    async fn socket(&self, parts: &mut Parts) -> Response<EndpointBody> {
        let upgrade = match Upgrade::of(parts) {
            Ok(upgrade) => upgrade,
            Err(refusal) => return self.refuse_upgrade(refusal),
        };
        if self.is_foreign(parts) {
            return forbidden();
        }
        if self.connections.lifecycle.draining.is_cancelled() {
            self.observer().sockets_refused.up();
            return error(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
        }
        let query = parts.uri.query().unwrap_or_default();
        if query.len() > MAX_QUERY {
            self.observer().sockets_refused.up();
            return error(StatusCode::URI_TOO_LONG, "the address of a socket has 16 KiB after its path at most");
        }
        let presented = self.keys.read(query_token(query).into_owned());
        // Read before authentication: a `disconnect` from now on may be about this page.
        let asked_at = self.connections.disconnects();
        let (verdict, reads_extensions) = self.authenticated(&presented, parts).await;
        let identity = match verdict {
            Ok(identity) => identity,
            Err(AuthError::Unavailable) => return self.refuse_after_delay("authentication is unavailable").await,
            Err(denied @ (AuthError::Denied | AuthError::Expired)) => return self.deny(upgrade, denied),
        };
        let permit = match self.connections.limiter.acquire(identity.principal()) {
            Ok(permit) => permit,
            Err(LimitReached { limit, reason }) => {
                self.observer().warn(format_args!("a socket is refused: as many are open as {limit} allows"));
                return self.refuse_after_delay(reason).await;
            }
        };
        let resume = self.resume_from(&presented);
        let terms = self.access_terms(presented, parts, reads_extensions, asked_at);
        let client = AcceptedClient { identity, resume, terms, permit };
        self.accept(upgrade, async move |upgraded, connections| connection::serve(upgraded, client, &connections))
    }

    /// What the application tells a page.
    async fn data_of(&self, identity: Option<&Identity>) -> Option<String> {
        self.data.as_ref()?.of(identity?, self.connections.hook_timeout, self.observer()).await
    }

    /// The key of a page that makes its handshake; `None` without keys, in `Delivery::Plain`.
    fn key(&self, presented: &PresentedKey, identity: Option<&Identity>, sequence: Sequence) -> Option<String> {
        if self.connections.hub().core.delivery == Delivery::Plain {
            return None;
        }
        let position = Position { epoch: self.epoch.id.clone(), sequence };
        let page = PageKey { session: random::id(), position };
        self.keys.make(presented, identity, &page)
    }

    /// Where the replay of a page starts, by its credentials and its key.
    fn resume_from(&self, presented: &PresentedKey) -> ResumeFrom {
        let Some(page) = &presented.page else { return ResumeFrom::Unknown };
        let owner = presented.credentials.owner(&self.epoch.owners);
        let id = u128::from_str_radix(&page.session, 16).ok();
        let session = id.map(|id| SessionId { id: id.to_ne_bytes(), owner });
        // The position of a tampered key may be beyond the log; then there is nothing to replay.
        let sequence = page.position.sequence_in(&self.epoch);
        let missed_from = sequence.map(|sequence| sequence.min(self.connections.hub().core.log_end()));
        ResumeFrom::Page { session, missed_from }
    }

    /// By what a socket is authenticated now and later.
    fn access_terms(
        &self,
        presented: PresentedKey,
        parts: &Parts,
        reads_extensions: bool,
        asked_at: u64,
    ) -> AccessTerms {
        let request = self.connections.gate.may_change().then(|| {
            let (request, left_out) =
                RevalidationRequest::of(presented.credentials, parts, &self.limits.revalidation, reads_extensions);
            if left_out > 0 {
                self.observer().warn(format_args!(
                    "{left_out} of the revalidation_headers of a socket are not kept, since together they exceed \
                     4 KiB: the authenticator is called again without them; name fewer or shorter headers"
                ));
            }
            request
        });
        AccessTerms { request, key_expires: presented.expires, asked_at }
    }

    /// Accepts the upgrade and closes the socket after a delay: after a refusal before the upgrade the page would retry every
    /// two seconds, for ever.
    fn deny(&self, upgrade: Upgrade, denied: AuthError) -> Response<EndpointBody> {
        self.observer().sockets_denied.up();
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else { return forbidden() };
        self.accept(upgrade, async move |upgraded, connections| {
            let delay = random::between(DENIED_DELAY.0, DENIED_DELAY.1);
            connection::reject_after(upgraded, denied == AuthError::Expired, delay, &connections).await;
            drop(permit);
        })
    }

    /// Answers 101, and runs a task on the socket once the server has carried out the upgrade.
    fn accept<Fut: Future<Output = ()> + Send>(
        &self,
        upgrade: Upgrade,
        serve: impl FnOnce(Upgraded, Arc<Connections>) -> Fut + Send + 'static,
    ) -> Response<EndpointBody> {
        let (response, on_upgrade) = upgrade.accept();
        let connections = self.connections.clone();
        self.connections.lifecycle.tasks.spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => serve(upgraded, connections).await,
                Err(error) => {
                    connections.observer().upgrades_failed.up();
                    if error.is_user() {
                        connections.observer().warn_once(format_args!(
                            "the server answered 101 but carries no upgrades out ({error}); serve connections with \
                             hyper's with_upgrades() or hyper-util's serve_connection_with_upgrades"
                        ));
                    }
                }
            }
        });
        response
    }

    /// Refuses for a temporary reason, after a random delay.
    async fn refuse_after_delay(&self, reason: &str) -> Response<EndpointBody> {
        self.observer().sockets_refused.up();
        if let Ok(_permit) = self.refusals.clone().try_acquire_owned() {
            let delay = random::between(Duration::ZERO, self.limits.refusal_delay);
            let _ = timeout(delay, self.connections.lifecycle.draining.cancelled()).await;
        }
        error(StatusCode::SERVICE_UNAVAILABLE, reason)
    }

    fn refuse_upgrade(&self, Refusal { status, reason }: Refusal) -> Response<EndpointBody> {
        // The page retries every two seconds.
        self.observer().warn_once_for(reason, format_args!("no WebSocket at {}: {reason}", self.path));
        let mut response = error(status, reason);
        if status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }

    /// The identity, and whether the authenticator has read the request's extensions.
    async fn authenticated(&self, presented: &PresentedKey, parts: &Parts) -> (Result<Identity, AuthError>, bool) {
        let (verdict, reads_extensions) = if presented.is_expired() {
            (Err(AuthError::Expired), false)
        } else {
            self.connections.gate.authenticate(&presented.credentials, parts).await
        };
        if let Err(error) = &verdict {
            self.observer().warn(format_args!("{} {} refused: {error}", parts.method, self.path));
        }
        (verdict, reads_extensions)
    }

    fn is_foreign(&self, parts: &Parts) -> bool {
        let Err(foreign) = self.origins.check(parts, self.observer()) else { return false };
        self.observer().origins_refused.up();
        self.observer().warn_once_of("foreign", (&foreign.origin, &foreign.host), || foreign.line(parts));
        true
    }

    fn observer(&self) -> &Observer {
        self.connections.observer()
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("path", &self.path)
            .field("origins", &self.origins)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
