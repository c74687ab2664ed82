//! What one subscription is sent besides what is published: resends, retractions and reminders.

pub(crate) mod batch;
pub(crate) mod reminders;
pub(crate) mod resend;
pub(crate) mod retractions;
