//! Checks of single settings, and of settings against each other.

use std::time::Duration;

use super::config::Config;
use crate::{
    error::ConfigError,
    hub::{Delivery, MAX_REMINDERS, ReminderTimes},
    path_check::endpoint_fault,
};

impl Config {
    pub(super) fn validate(&mut self) -> Result<(), ConfigError> {
        if endpoint_fault(&self.path).is_some() {
            return Err(ConfigError::EndpointPath(self.path.clone()));
        }
        let Self { connection, watch, gate, endpoint, log, times, .. } = self;
        let zero = [
            ("max_connections", connection.connections == 0),
            ("max_connections_per_principal", connection.of_principal == Some(0)),
            ("max_subscriptions", connection.subscriptions == 0),
            ("max_message_rate", connection.messages.burst == 0 || connection.messages.per_second == 0),
            ("max_concurrent_authentications", gate.concurrent == 0),
            ("max_message_bytes", connection.message_bytes == 0),
            ("max_body_bytes", watch.body_bytes == 0),
            ("ping_interval", connection.ping_interval.is_zero()),
            ("pong_timeout", connection.pong_timeout.is_zero()),
            ("write_timeout", connection.write_timeout.is_zero()),
            ("hook_timeout", watch.hook.is_zero()),
            ("sealed_key_lifetime", endpoint.sealed_key_lifetime.is_zero()),
            ("revalidation_interval", connection.revalidation_interval.is_zero()),
            ("max_log_records", log.records == 0),
            ("max_log_bytes", log.bytes == 0),
            ("log_retention", log.age.is_zero()),
            ("deletion_reminders", self.deletion_reminders.iter().flatten().any(Duration::is_zero)),
            ("settle_max_wait", times.settle.longest.is_zero()),
        ];
        if let Some((what, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero(what));
        }
        if let Some(waits) = &self.deletion_reminders {
            times.reminders = ReminderTimes::new(waits)
                .ok_or(ConfigError::TooManyReminders { given: waits.len(), most: MAX_REMINDERS })?;
        }
        let settle = times.settle;
        if settle.overlap < settle.quiet {
            return Err(ConfigError::SettleOverlap { settle_overlap: settle.overlap, settle_quiet: settle.quiet });
        }
        let (ping, pong) = (connection.ping_interval, connection.pong_timeout);
        if pong <= ping {
            return Err(ConfigError::PongTimeout { pong_timeout: pong, ping_interval: ping });
        }
        if self.entities.len() > usize::from(u16::MAX) {
            return Err(ConfigError::TooManyEntities(self.entities.len()));
        }
        for (at, entity) in self.entities.iter().enumerate() {
            entity.validate()?;
            if self.entities[..at].iter().any(|earlier| earlier.name == entity.name) {
                return Err(ConfigError::DuplicateEntity(entity.name.clone()));
            }
        }
        if self.log_file.is_some() && self.delivery == Delivery::Plain {
            return Err(ConfigError::LogFileWithPlain);
        }
        Ok(())
    }
}
