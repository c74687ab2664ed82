//! Checks of an entity's configuration, and of the changes that are published to it.

use super::definition::{Entity, EntityRoute};
use crate::{
    change::Change,
    error::{ConfigError, PublishError},
    object::Object,
};

/// Longer names are refused; clients subscribe by them.
const MAX_NAME: usize = 64;

impl Entity {
    /// Checks that a change does not break pages. A change that fails is never broadcast. A store that also refuses such
    /// objects keeps them out of its lists.
    ///
    /// [`Entity::scheduler`] refuses, as observed with Scheduler 7.2.15:
    ///
    /// - an add whose `start_date` or `end_date` is not text;
    /// - an `rrule` on which the client throws, after which the page draws and saves no more events: an unknown part or
    ///   `FREQ`, an `UNTIL` or a `BYDAY` that is not written as in RFC 5545, in capitals, a weekday's number or a `BYSETPOS`
    ///   of 0, a text for `BYHOUR`;
    /// - an `rrule` that the client draws for more than half a second, or for ever: an `INTERVAL` that is not a whole number,
    ///   hours or days that never occur, `SECONDLY` without a `COUNT`.
    ///
    /// The time to draw depends on the start of the series. The check expands the week in which the series starts and,
    /// unless its end has passed, the year from today, where pages open. So a series that starts far in the past may be
    /// refused because of the years up to today. Without a readable `start_date` the rule is checked from several starts, for
    /// the first week only.
    ///
    /// All other rules pass, however odd: any `COUNT`, `WKST`, `TZID`, `BYYEARDAY` or `BYEASTER`, and numbers out of range.
    /// The check takes microseconds for usual rules, and tens of milliseconds for the worst. It checks the object alone, so
    /// an update that moves the start of a series and holds no `rrule` passes.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_live_updates::{Change, Entity};
    ///
    /// let events = Entity::scheduler("/events");
    /// let event = json!({
    ///     "id": 7, "start_date": "2026-11-25 09:00", "end_date": "2026-11-25 09:15", "rrule": "every second Tuesday",
    /// });
    /// assert!(events.check(&Change::add(&event)?).is_err());
    /// # Ok::<(), tower_live_updates::ChangeError>(())
    /// ```
    ///
    /// # Errors
    /// [`PublishError::BreaksPages`] holds the reason. Entities without a preset accept every change.
    pub fn check(&self, change: &Change) -> Result<(), PublishError> {
        if !self.widget.may_refuse(change.kind(), change.object()) {
            return Ok(());
        }
        let object = Object::of(change.object()).unwrap_or_default();
        self.widget.check(change.kind(), &object).map_err(|problem| PublishError::BreaksPages {
            entity: self.name.clone(),
            id: change.id().to_owned(),
            reason: problem.reason_for(&object),
        })
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for name in [&self.name, &self.payload_key] {
            if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['$', '/']) || name.trim() != *name {
                return Err(ConfigError::Name(name.clone()));
            }
        }
        if self.scoping.is_some() && self.load.is_some() && !self.load_knows_scopes {
            return Err(ConfigError::LoadWithoutScopes(self.name.clone()));
        }
        if self.is_filtered() && self.load.is_none() && !self.routes.is_empty() {
            return Err(ConfigError::ViewWithoutLoad(self.name.clone()));
        }
        for param in self.scoping.iter().flat_map(|scoping| &scoping.params) {
            let names = |route: &EntityRoute| {
                [format!("{{{param}}}"), format!("{{*{param}}}")].iter().any(|it| route.path.contains(it))
            };
            if !self.routes.iter().any(names) {
                return Err(ConfigError::ScopeParam { entity: self.name.clone(), param: param.clone() });
            }
        }
        for pointer in [&self.request_pointer, &self.response_pointer].into_iter().flatten() {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(ConfigError::Pointer { entity: self.name.clone(), pointer: pointer.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ChangeKind;

    #[test]
    fn a_rule_is_found_however_its_key_was_written() {
        let (events, tasks) = (Entity::scheduler("/events"), Entity::new("tasks"));
        for key in ["rrule", r"\u0072rule", r"rrul\u0065"] {
            let json = format!(r#"{{"id":1,"{key}":"nonsense"}}"#);
            let change = Change::of(ChangeKind::Update, &Object::parse(json.as_bytes()).unwrap()).unwrap();
            assert!(events.check(&change).is_err() && tasks.check(&change).is_ok(), "{key}");
        }
    }
}
