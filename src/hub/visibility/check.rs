//! What the hooks of an entity answer about one object and one recipient.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    super::{core::Core, log::ObjectRef},
    audit::AuditEntry,
    envelope::Envelope,
};
use crate::{
    auth::Identity,
    change::ChangeKind,
    entity::{EntityIndex, View},
    frame::Frame,
    hook::{BoxError, guarded},
    sequence::Sequence,
};

/// What the hooks of an entity are asked about one object and one recipient.
#[derive(Debug)]
pub(crate) struct VisibilityCheck {
    pub(super) entity: EntityIndex,
    /// The object as it is now; of one that is gone only its id.
    pub(super) object: Bytes,
    /// It is published in the recipient's scopes.
    pub(super) is_received: bool,
    /// What the recipient may have been shown of it.
    pub(super) prior: Vec<PriorView>,
    pub(super) form: Form,
    pub(super) about: Option<Box<ObjectRef>>,
    /// Where in the log it begins what the recipient may be missing.
    pub(super) from: Sequence,
    pub(super) whole: bool,
    /// The frame that deletes it for everyone.
    pub(super) deletion: Option<Frame>,
    pub(super) audit: Option<Box<AuditEntry>>,
}

/// What a recipient may have been shown of an object.
#[derive(Debug)]
pub(super) enum PriorView {
    Object(Bytes),
    /// It is unknown what.
    Anything,
    /// It was not sent any of it.
    Nothing,
}

/// How an object is sent that may be seen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Add,
    Update,
    Resend {
        is_known: bool,
        /// The add is all there is to send.
        is_only_added: bool,
    },
    /// Only that it is gone, if it is to be.
    Retract,
    /// That it is gone, once more, or what it is if it may be seen again.
    Reminder,
}

/// Until when the hooks may answer that are asked about one object.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    since: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { since: Instant::now(), limit }
    }

    fn left(self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// What a check comes to.
pub(crate) enum Verdict {
    Send(Envelope),
    Nothing,
    /// A hook has failed to decide on the object, as it was published from that place of the log on. With that it is gone,
    /// to a page that may be showing it.
    Undecided(Box<ObjectRef>, Sequence, Option<Envelope>),
}

/// The hooks of one entity, asked about one recipient.
struct Asking<'a, F> {
    view: &'a View,
    identity: &'a Identity,
    entity: &'a str,
    deadline: Deadline,
    failed: &'a F,
}

impl<F: Fn(&str, &dyn fmt::Display)> Asking<'_, F> {
    /// Whether the recipient may see an object as it was; `otherwise` where the hook fails.
    async fn may_see(&self, object: &[u8], otherwise: bool) -> bool {
        let object = String::from_utf8_lossy(object);
        match guarded(self.deadline.left(), || self.view.may_see(self.identity, &object)).await {
            Ok(Ok(may_see)) => return may_see,
            Ok(Err(error)) => (self.failed)(self.entity, &error),
            Err(failure) => (self.failed)(self.entity, &failure),
        }
        otherwise
    }

    /// Whether it was shown this; `in_doubt` where that is unknown.
    async fn was_shown(&self, prior: &PriorView, in_doubt: bool) -> bool {
        match prior {
            PriorView::Nothing => false,
            PriorView::Anything => in_doubt,
            PriorView::Object(object) => self.may_see(object, in_doubt).await,
        }
    }

    /// Whether the page may be showing the object. A hook that fails does not know, and so it may.
    async fn was_shown_any(&self, prior: &[PriorView]) -> bool {
        stream::iter(prior).any(|prior| self.was_shown(prior, true)).await
    }

    /// Whether the page has shown the object all the time. A hook that fails does not know, and so it may not.
    async fn was_shown_all(&self, prior: &[PriorView]) -> bool {
        !prior.is_empty() && stream::iter(prior).all(|prior| self.was_shown(prior, false)).await
    }
}

impl VisibilityCheck {
    /// An object that is resent.
    pub(super) fn of(entity: EntityIndex, object: Bytes, audit: Option<Box<AuditEntry>>) -> Self {
        Self {
            entity,
            object,
            is_received: false,
            prior: Vec::new(),
            form: Form::Resend { is_known: false, is_only_added: false },
            about: None,
            from: Sequence::ZERO,
            whole: false,
            deletion: None,
            audit,
        }
    }

    /// The bytes that are read, and may be sent.
    pub(super) fn bytes(&self) -> usize {
        let prior = self.prior.iter().map(|prior| match prior {
            PriorView::Object(object) => object.len(),
            PriorView::Anything | PriorView::Nothing => 0,
        });
        self.object.len() + prior.sum::<usize>()
    }

    pub(crate) async fn run(
        self,
        core: &Core,
        identity: &Identity,
        deadline: Deadline,
        failed: &impl Fn(&str, &dyn fmt::Display),
    ) -> Verdict {
        let encoder = core.encoder(self.entity);
        let Some(view) = encoder.view.as_ref() else { return Verdict::Nothing };
        let asking = Asking { view, identity, entity: &encoder.entity, deadline, failed };
        let object = String::from_utf8_lossy(&self.object);
        let kind = if matches!(self.form, Form::Add) { ChangeKind::Add } else { ChangeKind::Update };
        let mut seen = None;
        let mut has_failed = false;
        if self.is_received {
            let answer = guarded(deadline.left(), || view.seen(identity, &object)).await;
            let answer = match answer {
                // What is seen as it is, is shared with all who see it so.
                Ok(Ok(Some(seen))) if encoder.accepts(kind, &seen) => Ok(Some(match seen {
                    Cow::Borrowed(_) => self.object.clone(),
                    Cow::Owned(own) => encoder.normal_form(&own),
                })),
                Ok(Ok(None)) => Ok(None),
                Ok(Ok(Some(_))) => Err("what project answered would break pages".into()),
                Ok(Err(error)) => Err(error),
                Err(failure) => Err(failure.to_string().into()),
            };
            seen = answer.unwrap_or_else(|error: BoxError| {
                failed(&encoder.entity, &error);
                has_failed = true;
                None
            });
        }
        let upsert =
            |object: &Bytes, whole| encoder.encode_upsert(object, encoder.can_add(object, whole)).for_pages(false);
        let (frame, leaves) = match (seen, self.form) {
            (None, _) if !asking.was_shown_any(&self.prior).await => {
                return match self.about.filter(|_| has_failed) {
                    Some(object) => Verdict::Undecided(object, self.from, None),
                    None => Verdict::Nothing,
                };
            }
            (None, _) => match self.deletion {
                Some(frame) => (frame, true),
                None => (encoder.encode_leave(&self.object).into(), true),
            },
            (Some(_), Form::Retract) => return Verdict::Nothing,
            (Some(object), Form::Reminder) => (upsert(&object, self.whole), false),
            (Some(object), Form::Add) => (encoder.encode_shared(ChangeKind::Add, &object), false),
            (Some(object), Form::Update) => match asking.was_shown_all(&self.prior).await {
                true => (encoder.encode_shared(ChangeKind::Update, &object), false),
                false => (encoder.encode_enter(&object, encoder.can_add(&object, self.whole)), false),
            },
            // What a projection shows may have changed although the object has not.
            (Some(object), Form::Resend { is_only_added: true, .. })
                if view.project.is_none() && encoder.can_add(&object, self.whole) =>
            {
                (encoder.encode_shared(ChangeKind::Add, &object), false)
            }
            (Some(object), Form::Resend { is_known, .. }) => {
                let has_stayed = is_known && asking.was_shown_all(&self.prior).await;
                (upsert(&object, self.whole && !has_stayed), false)
            }
        };
        // A reminder is no new loss.
        let is_new = !(leaves && matches!(self.form, Form::Reminder));
        let about = self.about.filter(|_| is_new);
        let undecided = about.clone().filter(|_| has_failed);
        let envelope = Envelope::to_one(self.entity, frame, self.audit).about(about, leaves);
        match undecided {
            Some(object) => Verdict::Undecided(object, self.from, Some(envelope)),
            None => Verdict::Send(envelope),
        }
    }
}
