//! One page with the stock DHTMLX Scheduler 7.2.15: what its data processor (mode REST-JSON), its handlers of remote
//! updates and its `recurring` plugin do to the events it holds, down to their faults. Nothing here is improved.
//!
//! The order of statements follows the client's code, because an exception in the middle of it (`Thrown`) leaves the
//! page in a state which only that order explains. Left out: the clock, the network, the drawing (as far as it cannot
//! throw) and what needs date arithmetic: dates are texts `YYYY-MM-DD HH:MM`, every event is longer than five minutes
//! and in view.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub(super) type Map = serde_json::Map<String, Value>;

/// An exception in the page's script. The caller (socket, timer, XMLHttpRequest, mouse) drops it, as a browser does.
#[derive(Debug)]
struct Thrown;

type Run<T = ()> = Result<T, Thrown>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Post,
    Put,
    Delete,
}

/// A request of the data processor. `body` is empty for a DELETE.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) method: Method,
    pub(super) id: Option<String>,
    pub(super) body: Map,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Status 200 with a JSON object, which may hold `tid` and `action`.
    Ok { tid: Option<String>, action: Option<&'static str> },
    /// Any other status, no answer, or a body that is not JSON.
    Failed,
}

/// `!nativeeditor_status`, which the client keeps inside the event: it is gone when the event's object is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Inserted,
    Updated,
    Deleted,
    TrulyDeleted,
}

#[derive(Clone, Debug)]
struct Row {
    fields: Map,
    status: Option<Status>,
    /// This page made the row by changing the occurrence of this time (`_pid_time`). Such a row follows its series to
    /// the series' real id (`_rec_markers`).
    occurrence: Option<Value>,
    /// `_pid_changed`: the series got its real id, which this page must send to the server once this row has its own.
    series_renamed: bool,
}

#[derive(Debug)]
struct Form {
    id: String,
    /// What stands in the inputs. They are filled once and no remote update refreshes them.
    inputs: Map,
}

#[derive(Debug)]
pub(super) struct Page {
    rows: BTreeMap<String, Row>,
    /// Ids of rows that make every drawing of the calendar throw.
    undrawable: BTreeSet<String>,
    /// `_in_progress`: ids being saved, with true where a further change waits for the answer.
    in_progress: BTreeMap<String, bool>,
    /// `updatedRows`: ids with something to save, in flight or failed.
    unsaved: Vec<String>,
    invalid: BTreeSet<String>,
    /// `_silent_mode`: changes are not noticed by the data processor.
    silent: bool,
    loading: bool,
    not_render: bool,
    /// Events of `add-event` messages waiting for `onFullSync`.
    held: Vec<Map>,
    form: Option<Form>,
    sent: Vec<Request>,
    in_flight: BTreeMap<u64, String>,
    last_number: u64,
    last_temporary_id: u64,
    /// Rows for which a one millisecond timer will report a change.
    timers: Vec<String>,
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

impl Page {
    pub(super) fn new() -> Self {
        Self::with_temporary_ids_after(1_700_000_000_000)
    }

    /// The client counts temporary ids up from the clock, so those of two pages differ.
    pub(super) fn with_temporary_ids_after(last_temporary_id: u64) -> Self {
        Self {
            rows: BTreeMap::new(),
            undrawable: BTreeSet::new(),
            in_progress: BTreeMap::new(),
            unsaved: Vec::new(),
            invalid: BTreeSet::new(),
            silent: false,
            loading: false,
            not_render: false,
            held: Vec::new(),
            form: None,
            sent: Vec::new(),
            in_flight: BTreeMap::new(),
            last_number: 0,
            last_temporary_id,
            timers: Vec::new(),
        }
    }

    /// `scheduler.parse(list)`: the list's events replace those held under the same ids; no other is removed.
    pub(super) fn load(&mut self, list: &[Map]) {
        let _ = self.try_load(list);
    }

    /// The `value` of one frame for the entity `events`.
    pub(super) fn receive(&mut self, value: &Value) {
        let _ = self.try_receive(value);
    }

    /// The user makes an event. Returns its temporary id.
    pub(super) fn create(&mut self, fields: Map) -> String {
        let id = self.temporary_id();
        let _ = self.add_event(id.clone(), fields, false);
        id
    }

    /// The user changes an event without a form (drag, rename). False if the page does not hold it.
    pub(super) fn change(&mut self, id: &str, fields: Map) -> bool {
        if !self.rows.contains_key(id) {
            return false;
        }
        self.merge(id, fields);
        let _ = self.event_changed(id);
        true
    }

    /// The user deletes an event. False if the page does not hold it.
    pub(super) fn delete(&mut self, id: &str) -> bool {
        if !self.rows.contains_key(id) {
            return false;
        }
        let _ = self.delete_by_user(id);
        true
    }

    /// The user changes one occurrence of a series: a row of its own, held beside the series. `fields` must have the
    /// occurrence's `start_date` and `end_date`; what they leave out is not taken from the series, except the text.
    pub(super) fn change_occurrence(&mut self, series: &str, original_start: &str, fields: Map) -> Option<String> {
        self.add_occurrence(series, original_start, fields, true)
    }

    /// The user deletes one occurrence of a series: the page adds a row that marks it as deleted.
    pub(super) fn delete_occurrence(&mut self, series: &str, original_start: &str, mut fields: Map) -> Option<String> {
        fields.insert("deleted".into(), true.into());
        self.add_occurrence(series, original_start, fields, false)
    }

    /// False if nothing opened: unknown id, another form open, or a series (whose form is not modelled).
    pub(super) fn open_form(&mut self, id: &str) -> bool {
        let Some(row) = self.rows.get(id).filter(|row| self.form.is_none() && !is_series(&row.fields)) else {
            return false;
        };
        let mut inputs = Map::new();
        for key in ["start_date", "end_date"] {
            inputs.insert(key.into(), row.fields.get(key).cloned().unwrap_or_default());
        }
        inputs.insert(
            "text".into(),
            row.fields.get("text").filter(|text| truthy(text)).cloned().unwrap_or_else(|| "".into()),
        );
        self.form = Some(Form { id: id.to_owned(), inputs });
        true
    }

    /// The user changes `fields` (of `text`, `start_date`, `end_date`) in the open form and saves it.
    pub(super) fn save_form(&mut self, fields: Map) {
        let _ = self.try_save_form(fields);
    }

    /// Restores nothing: the event stays as remote updates have made it meanwhile.
    pub(super) fn cancel_form(&mut self) {
        let known = self.form.as_ref().is_some_and(|form| self.rows.contains_key(&form.id));
        // without its event, the form cannot even be closed
        if known && self.render().is_ok() {
            self.form = None;
        }
    }

    pub(super) fn form(&self) -> Option<&str> {
        self.form.as_ref().map(|form| form.id.as_str())
    }

    /// What the data processor has sent since the last call, in order.
    pub(super) fn requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.sent)
    }

    pub(super) fn answered(&mut self, number: u64, answer: Answer) {
        let Some(id) = self.in_flight.remove(&number) else { return };
        match answer {
            // a change waiting for the answer stays unsaved, too, and nothing tries again
            Answer::Failed => drop(self.in_progress.remove(&id)),
            Answer::Ok { tid, action } => {
                let _ = self.after_update(&id, tid, action);
            }
        }
        for id in std::mem::take(&mut self.timers) {
            if self.rows.contains_key(&id) {
                let _ = self.event_changed(&id);
            }
        }
    }

    /// What the page holds, temporary ids and markers of deleted occurrences included.
    pub(super) fn events(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.rows.iter().map(|(id, row)| (id.as_str(), &row.fields))
    }

    /// No answer is awaited, so the page will send nothing by itself: the client never repeats a failed save.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// False while the page silently drops the user's changes.
    pub(super) fn can_save(&self) -> bool {
        !self.silent && !self.loading && self.undrawable.is_empty()
    }

    /// Ids with a change not saved, in flight or failed. The client also forgets some in here for ever.
    pub(super) fn unsaved(&self) -> &[String] {
        &self.unsaved
    }

    /// Events the page has received and does not show yet.
    pub(super) fn held(&self) -> impl Iterator<Item = &Map> {
        self.held.iter()
    }

    /// Ids being saved, with true where a further change waits for the answer.
    pub(super) fn being_saved(&self) -> impl Iterator<Item = (&str, bool)> {
        self.in_progress.iter().map(|(id, waits)| (id.as_str(), *waits))
    }
}

/// Remote updates.
impl Page {
    fn try_receive(&mut self, value: &Value) -> Run {
        let Some(event) = value.get("event").and_then(Value::as_object) else { return Ok(()) };
        let Some(id) = event.get("id").and_then(id_text) else { return Ok(()) };
        if self.in_progress.contains_key(&id) {
            return Ok(());
        }
        match value.get("type").and_then(Value::as_str) {
            Some("add-event") if self.is_inserting() => self.held.push(event.clone()),
            Some("add-event") => self.receive_add(&id, event)?,
            Some("update-event") => self.receive_update(&id, event)?,
            Some("delete-event") => self.receive_delete(&id, event)?,
            _ => {}
        }
        Ok(())
    }

    fn is_inserting(&self) -> bool {
        self.in_progress.keys().any(|id| self.status(id) == Some(Status::Inserted))
    }

    /// `dp.ignore`, without which none of the three below runs: an exception leaves the page silent.
    fn ignore(&mut self, code: impl FnOnce(&mut Self) -> Run) -> Run {
        self.silent = true;
        code(self)?;
        self.silent = false;
        Ok(())
    }

    fn receive_add(&mut self, id: &str, event: &Map) -> Run {
        if self.rows.contains_key(id) {
            return Ok(());
        }
        self.ignore(|page| page.add_event(id.to_owned(), event.clone(), false))
    }

    fn receive_update(&mut self, id: &str, event: &Map) -> Run {
        if !self.rows.contains_key(id) {
            return Ok(());
        }
        self.ignore(|page| {
            let mut event = event.clone();
            event.retain(|key, value| !matches!(key.as_str(), "start_date" | "end_date") || value.is_string());
            page.merge(id, event);
            page.event_changed(id)?;
            if is_series(&page.rows[id].fields) { page.render() } else { Ok(()) }
        })
    }

    fn receive_delete(&mut self, id: &str, event: &Map) -> Run {
        if !self.rows.contains_key(id) {
            let of_series = ["event_pid", "recurring_event_id"].iter().any(|key| event.get(*key).is_some_and(truthy));
            if !of_series {
                return Ok(());
            }
            return self.ignore(|page| page.add_event(id.to_owned(), event.clone(), false));
        }
        self.ignore(|page| {
            // the client means to ask about the open form, and uses a `this` that is undefined there
            if page.form() == Some(id) {
                return Err(Thrown);
            }
            page.delete_event(id)
        })
    }

    /// Each held add goes when it has run. One that throws stays, and so do all behind it, for the next full sync.
    fn full_sync(&mut self) -> Run {
        while let Some(event) = self.held.first().cloned() {
            if let Some(id) = event.get("id").and_then(id_text) {
                self.receive_add(&id, &event)?;
            }
            self.held.remove(0);
        }
        Ok(())
    }
}

/// The scheduler.
impl Page {
    fn try_load(&mut self, list: &[Map]) -> Run {
        self.loading = true;
        self.not_render = true;
        for event in list {
            let id = match event.get("id").and_then(id_text) {
                Some(id) => id,
                None => self.temporary_id(),
            };
            self.add_event(id, event.clone(), true)?;
        }
        self.not_render = false;
        if !list.is_empty() {
            self.render()?;
        }
        self.loading = false;
        Ok(())
    }

    /// `any_date`: a list may hold dates as numbers, a remote event only as text.
    fn add_event(&mut self, id: String, mut fields: Map, any_date: bool) -> Run {
        for key in ["start_date", "end_date"] {
            let date = fields.get(key).unwrap_or(&Value::Null);
            if !(date.is_string() || any_date && truthy(date)) {
                return Err(Thrown);
            }
        }
        if !fields.get("text").is_some_and(truthy) {
            fields.insert("text".into(), "".into());
        }
        if fields.get("id").and_then(id_text).as_ref() != Some(&id) {
            fields.insert("id".into(), id.clone().into());
        }
        let row = Row { fields, status: None, occurrence: None, series_renamed: false };
        let is_new = self.put(&id, row).is_none();
        self.render()?;
        if self.loading {
            return Ok(());
        }
        if is_new { self.set_updated(&id, true, Some(Status::Inserted)) } else { self.event_changed(&id) }
    }

    fn add_occurrence(
        &mut self,
        series: &str,
        original_start: &str,
        mut fields: Map,
        follows_series: bool,
    ) -> Option<String> {
        let series_row = self.rows.get(series).filter(|row| is_series(&row.fields))?;
        fields.entry("text").or_insert(series_row.fields.get("text").cloned().unwrap_or_default());
        fields.insert("duration".into(), Value::Null);
        fields.insert("rrule".into(), Value::Null);
        fields.insert("recurring_event_id".into(), series.into());
        fields.insert("original_start".into(), original_start.into());
        let id = self.temporary_id();
        let _ = self.add_event(id.clone(), fields, false);
        if follows_series && let Some(row) = self.rows.get_mut(&id) {
            row.occurrence = Some(original_start.into());
        }
        Some(id)
    }

    fn delete_by_user(&mut self, id: &str) -> Run {
        let fields = &self.rows[id].fields;
        if is_occurrence(fields) && !fields.get("deleted").is_some_and(truthy) {
            self.add_marker_beside(id)?;
        }
        match self.status(id) {
            Some(Status::Inserted) => {
                self.set_updated(id, false, None)?;
                self.delete_event(id)
            }
            Some(Status::Deleted) => Ok(()),
            Some(Status::TrulyDeleted) => self.delete_event(id),
            // stays until the answer
            _ => self.set_updated(id, true, Some(Status::Deleted)),
        }
    }

    /// A changed occurrence is deleted in two requests: the POST of this marker, then the DELETE of the changed one.
    fn add_marker_beside(&mut self, id: &str) -> Run {
        let Row { fields, occurrence, .. } = self.rows[id].clone();
        let mut marker: Map = ["start_date", "end_date", "text", "recurring_event_id", "original_start"]
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), fields.get(*key)?.clone())))
            .collect();
        marker.insert("duration".into(), Value::Null);
        marker.insert("rrule".into(), Value::Null);
        marker.insert("deleted".into(), true.into());
        if let Some(occurrence) = occurrence {
            marker.insert("original_start".into(), occurrence);
        }
        let id = self.temporary_id();
        self.add_event(id, marker, false)
    }

    /// `deleteEvent(id, true)`: the user is not asked. An occurrence of a series stays, as a marker of its deletion.
    fn delete_event(&mut self, id: &str) -> Run {
        // the plugin looks into the event that is not there
        let mut row = self.take(id).ok_or(Thrown)?;
        self.render()?;
        if is_occurrence(&row.fields) {
            row.fields.insert("deleted".into(), true.into());
            self.put(id, row);
            self.render()?;
        }
        Ok(())
    }

    /// The event `onEventChanged`.
    fn event_changed(&mut self, id: &str) -> Run {
        if self.loading {
            return Ok(());
        }
        self.render()?;
        self.set_updated(id, true, Some(Status::Updated))
    }

    fn change_event_id(&mut self, old: &str, new: &str) {
        if old == new {
            return;
        }
        if let Some(mut row) = self.take(old) {
            row.fields.insert("id".into(), new.into());
            // these marks are kept beside the events, so one of an event that had the id before lives on
            let had = self.rows.get(new).is_some_and(|row| row.series_renamed);
            row.series_renamed |= had && row.occurrence.is_none();
            self.put(new, row);
        }
        if let Some(form) = self.form.as_mut().filter(|form| form.id == old) {
            form.id = new.to_owned();
        }
        for row in self.rows.values_mut().filter(|row| row.occurrence.is_some()) {
            if row.fields.get("recurring_event_id").and_then(id_text).as_deref() == Some(old) {
                row.fields.insert("recurring_event_id".into(), new.into());
                row.series_renamed = true;
            }
        }
        // an occurrence which had its own id before its series had is never corrected on the server
        if let Some(row) = self.rows.get_mut(new).filter(|row| row.series_renamed) {
            row.series_renamed = false;
            self.timers.push(new.to_owned());
        }
    }

    fn try_save_form(&mut self, fields: Map) -> Run {
        let Some(form) = &mut self.form else { return Ok(()) };
        form.inputs.extend(fields);
        let id = form.id.clone();
        let mut data = form.inputs.clone();
        data.insert("rrule".into(), "".into());
        if !self.rows.contains_key(&id) {
            return Err(Thrown);
        }
        // the plugin renames what it takes for the series' occurrences, without saving them
        for row in self.rows.values_mut() {
            let of_this = row.fields.get("recurring_event_id").and_then(id_text).as_deref() == Some(&*id);
            if of_this && date(&row.fields) >= date(&data) {
                row.fields.insert("text".into(), data["text"].clone());
            }
        }
        self.render()?;
        self.merge(&id, data);
        self.event_changed(&id)?;
        self.form = None;
        Ok(())
    }

    /// Drawing throws while a series in view has a rule that cannot be read.
    fn render(&self) -> Run {
        if self.not_render || self.undrawable.is_empty() { Ok(()) } else { Err(Thrown) }
    }

    fn put(&mut self, id: &str, row: Row) -> Option<Row> {
        if is_drawable(&row.fields) {
            self.undrawable.remove(id);
        } else {
            self.undrawable.insert(id.to_owned());
        }
        self.rows.insert(id.to_owned(), row)
    }

    fn take(&mut self, id: &str) -> Option<Row> {
        self.undrawable.remove(id);
        self.rows.remove(id)
    }

    fn merge(&mut self, id: &str, fields: Map) {
        if let Some(mut row) = self.rows.remove(id) {
            row.fields.extend(fields);
            self.put(id, row);
        }
    }

    fn temporary_id(&mut self) -> String {
        self.last_temporary_id += 1;
        self.last_temporary_id.to_string()
    }
}

/// The data processor.
impl Page {
    fn status(&self, id: &str) -> Option<Status> {
        self.rows.get(id).and_then(|row| row.status)
    }

    fn set_status(&mut self, id: &str, status: Option<Status>) {
        if let Some(row) = self.rows.get_mut(id) {
            row.status = status;
        }
    }

    fn set_updated(&mut self, id: &str, state: bool, status: Option<Status>) -> Run {
        if self.silent {
            return Ok(());
        }
        let place = self.unsaved.iter().position(|unsaved| unsaved == id);
        if state {
            // a new event stays new and a deleted one deleted, whatever is changed in it
            let status = match status {
                None | Some(Status::Updated) => self.status(id).or(Some(Status::Updated)),
                other => other,
            };
            self.invalid.remove(id);
            if place.is_none() {
                self.unsaved.push(id.to_owned());
            }
            self.set_status(id, status);
            if let Some(waits) = self.in_progress.get_mut(id) {
                *waits = true;
            }
        } else if !self.invalid.contains(id) {
            place.map(|place| self.unsaved.remove(place));
            self.set_status(id, None);
        }
        if self.rows.contains_key(id) {
            self.render()?;
        }
        if state {
            self.send(id);
        }
        Ok(())
    }

    fn send(&mut self, id: &str) {
        if self.in_progress.contains_key(id) {
            return;
        }
        self.in_progress.insert(id.to_owned(), false);
        let method = match self.status(id) {
            Some(Status::Inserted) => Method::Post,
            Some(Status::Deleted) => Method::Delete,
            _ => Method::Put,
        };
        let body = match self.rows.get(id) {
            Some(row) if method != Method::Delete => body(&row.fields),
            _ => Map::new(),
        };
        self.last_number += 1;
        self.in_flight.insert(self.last_number, id.to_owned());
        let path_id = (method != Method::Post).then(|| id.to_owned());
        self.sent.push(Request { number: self.last_number, method, id: path_id, body });
    }

    fn after_update(&mut self, id: &str, tid: Option<String>, action: Option<&str>) -> Run {
        // without an action in the answer, what the row is now is taken for what has been saved
        let action = action.filter(|action| !action.is_empty()).unwrap_or_else(|| match self.status(id) {
            Some(Status::Inserted) => "inserted",
            Some(Status::Deleted) => "deleted",
            Some(Status::TrulyDeleted) => "true_deleted",
            Some(Status::Updated) | None => "updated",
        });
        let tid = tid.filter(|tid| !tid.is_empty()).unwrap_or_else(|| id.to_owned());
        self.after_update_callback(id, &tid, action)?;
        if self.unsaved.is_empty() { self.full_sync() } else { Ok(()) }
    }

    fn after_update_callback(&mut self, sent_id: &str, tid: &str, action: &str) -> Run {
        let waits = self.in_progress.get(sent_id) == Some(&true);
        let correct = !matches!(action, "error" | "invalid");
        let mut id = sent_id;
        if !correct {
            self.invalid.insert(id.to_owned());
        }
        if !waits {
            self.set_updated(id, false, None)?;
        }
        match action {
            "inserted" | "insert" if tid != id => {
                self.set_updated(id, false, None)?;
                if self.rows.contains_key(id) {
                    self.change_event_id(id, tid);
                }
                id = tid;
            }
            "deleted" | "delete" => {
                self.set_status(id, Some(Status::TrulyDeleted));
                if self.rows.contains_key(id) {
                    if id != tid {
                        self.set_status(id, Some(Status::Updated));
                        self.change_event_id(id, tid);
                    }
                    self.delete_event(tid)?;
                }
                self.in_progress.remove(sent_id);
                return Ok(());
            }
            _ => {}
        }
        self.in_progress.remove(sent_id);
        if waits {
            let status = self.status(id);
            self.set_updated(tid, true, status)?;
        } else if correct {
            self.set_status(id, None);
        }
        Ok(())
    }
}

/// What is true in JavaScript.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// The key under which an event with this id is held.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(_) if truthy(value) => Some(value.to_string()),
        _ => None,
    }
}

fn is_occurrence(fields: &Map) -> bool {
    fields.get("recurring_event_id").is_some_and(|id| truthy(id) && id != "0")
}

fn is_series(fields: &Map) -> bool {
    fields.get("rrule").is_some_and(truthy) && !fields.get("recurring_event_id").is_some_and(truthy)
}

fn is_drawable(fields: &Map) -> bool {
    !is_series(fields) || fields.get("deleted").is_some_and(truthy) || fields["rrule"].as_str().is_some_and(is_rule)
}

/// Whether the rrule library reads a rule of one line: `RRULE:` in front, for one, is too much for it.
fn is_rule(rule: &str) -> bool {
    let mut frequency = "YEARLY".to_owned();
    let readable = rule.split(';').all(|part| {
        let Some((key, value)) = part.split_once('=') else { return false };
        match key.to_uppercase().as_str() {
            "FREQ" => frequency = value.to_uppercase(),
            "BYDAY" | "BYWEEKDAY" => return value.split(',').all(is_weekday),
            "UNTIL" => return is_until(value),
            "WKST" | "COUNT" | "INTERVAL" | "BYSETPOS" | "BYMONTH" | "BYMONTHDAY" | "BYYEARDAY" | "BYWEEKNO"
            | "BYHOUR" | "BYMINUTE" | "BYSECOND" | "BYEASTER" => {}
            _ => return false,
        }
        true
    });
    readable && ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"].contains(&frequency.as_str())
}

/// `MO`, `-1FR`, `+13TU`
fn is_weekday(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    ["MO", "TU", "WE", "TH", "FR", "SA", "SU"].contains(&&text[number.len()..])
        && (number.is_empty() || matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// `20250424`, `20250424T000000`, `20250424T000000Z`
fn is_until(text: &str) -> bool {
    let text = text.strip_suffix('Z').filter(|text| text.len() > 8).unwrap_or(text);
    matches!(text.len(), 8 | 15)
        && text.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'T' } else { b.is_ascii_digit() })
}

fn date(fields: &Map) -> Option<&str> {
    fields.get("start_date").and_then(Value::as_str)
}

/// What is sent of an event: neither its id nor private fields, and arrays as objects.
fn body(fields: &Map) -> Map {
    fields
        .iter()
        .filter(|(key, _)| !key.starts_with('_') && *key != "id")
        .map(|(key, value)| (key.clone(), in_body(value)))
        .collect()
}

fn in_body(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), in_body(item))).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| !key.starts_with('_'))
            .map(|(key, value)| (key.clone(), in_body(value)))
            .collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map {
        value.as_object().cloned().unwrap()
    }

    fn event(id: &str, text: &str) -> Value {
        json!({"id": id, "text": text, "start_date": "2025-04-21 10:00", "end_date": "2025-04-21 11:00"})
    }

    fn fields(text: &str) -> Map {
        let mut fields = map(event("", text));
        fields.remove("id");
        fields
    }

    fn text(text: &str) -> Map {
        map(json!({"text": text}))
    }

    fn add(page: &mut Page, event: Value) {
        page.receive(&json!({"type": "add-event", "event": event}));
    }

    fn update(page: &mut Page, event: Value) {
        page.receive(&json!({"type": "update-event", "event": event}));
    }

    fn delete(page: &mut Page, event: Value) {
        page.receive(&json!({"type": "delete-event", "event": event}));
    }

    fn inserted(tid: &str) -> Answer {
        Answer::Ok { tid: Some(tid.into()), action: Some("inserted") }
    }

    fn done(action: &'static str) -> Answer {
        Answer::Ok { tid: None, action: Some(action) }
    }

    const EMPTY: Answer = Answer::Ok { tid: None, action: None };

    /// A page that shows the events 1 and 2.
    fn page() -> Page {
        let mut page = Page::new();
        page.load(&[map(event("1", "one")), map(event("2", "two"))]);
        page
    }

    fn request(page: &mut Page) -> Request {
        let requests = page.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.events().map(|(id, _)| id).collect()
    }

    fn shown<'a>(page: &'a Page, id: &str) -> Option<&'a Map> {
        page.events().find(|(known, _)| *known == id).map(|(_, fields)| fields)
    }

    fn shown_text<'a>(page: &'a Page, id: &str) -> &'a str {
        shown(page, id).unwrap()["text"].as_str().unwrap()
    }

    #[test]
    fn first_change_is_sent_at_once_and_the_others_in_one_put_after_the_answer() {
        let mut page = page();
        for n in 0..5 {
            page.change("1", text(&n.to_string()));
        }
        let first = request(&mut page);
        assert_eq!((first.method, first.id.as_deref(), &first.body["text"]), (Method::Put, Some("1"), &json!("0")));
        page.answered(first.number, EMPTY);
        let second = request(&mut page);
        assert_eq!((second.method, &second.body["text"]), (Method::Put, &json!("4")));
        page.answered(second.number, EMPTY);
        assert!(page.requests().is_empty() && page.is_idle());
    }

    #[test]
    fn create_then_change() {
        let mut page = page();
        let id = page.create(fields("new"));
        page.change(&id, text("newer"));
        let post = request(&mut page);
        assert_eq!((post.method, post.id, &post.body), (Method::Post, None, &fields("new")));
        page.answered(post.number, inserted("7"));
        let put = request(&mut page);
        assert_eq!((put.method, put.id.as_deref(), put.body), (Method::Put, Some("7"), fields("newer")));
        page.answered(put.number, EMPTY);
        assert_eq!(ids(&page), ["1", "2", "7"]);
    }

    #[test]
    fn delete_before_the_answer_to_the_post_is_lost() {
        let mut page = page();
        let id = page.create(fields("new"));
        let post = request(&mut page);
        page.delete(&id);
        add(&mut page, event("7", "new"));
        page.answered(post.number, inserted("7"));
        assert_eq!(ids(&page), ["1", "2", "7"]);
        assert!(page.requests().is_empty() && page.is_idle());
    }

    #[test]
    fn delete_after_a_change_of_a_new_event_becomes_an_empty_put() {
        let mut page = page();
        let id = page.create(fields("new"));
        let post = request(&mut page);
        page.change(&id, text("newer"));
        page.delete(&id);
        page.answered(post.number, inserted("7"));
        let put = request(&mut page);
        assert_eq!((put.method, put.id.as_deref(), put.body.len()), (Method::Put, Some("7"), 0));
    }

    #[test]
    fn delete_behind_a_put_needs_an_action_in_the_answer() {
        let mut page = page();
        page.change("1", text("changed"));
        let put = request(&mut page);
        page.delete("1");
        page.answered(put.number, done("updated"));
        assert_eq!(request(&mut page).method, Method::Delete);

        let mut page = self::page();
        page.change("1", text("changed"));
        let put = request(&mut page);
        page.delete("1");
        page.answered(put.number, EMPTY);
        assert!(page.requests().is_empty() && page.is_idle());
        assert_eq!(ids(&page), ["2"]);
        // and the page never takes itself for saved again: adds held from now on are not shown
        let _ = page.create(fields("new"));
        let post = request(&mut page);
        add(&mut page, event("8", "of another page"));
        page.answered(post.number, inserted("9"));
        assert_eq!((ids(&page), page.held().count()), (vec!["2", "9"], 1));
    }

    #[test]
    fn updates_of_an_event_being_saved_are_ignored() {
        let mut page = page();
        page.change("1", text("mine"));
        let put = request(&mut page);
        update(&mut page, event("1", "theirs"));
        delete(&mut page, json!({"id": 1}));
        page.answered(put.number, EMPTY);
        assert_eq!(shown_text(&page, "1"), "mine");
    }

    #[test]
    fn adds_are_held_during_an_insert_and_other_news_of_them_lost() {
        let mut page = page();
        page.create(fields("new"));
        page.change("1", text("mine"));
        let [post, put] = page.requests().try_into().unwrap();
        for id in ["5", "6", "7"] {
            add(&mut page, event(id, "first"));
        }
        update(&mut page, event("5", "second"));
        delete(&mut page, json!({"id": "6"}));
        add(&mut page, event("5", "third"));
        page.answered(post.number, inserted("7"));
        assert_eq!(ids(&page), ["1", "2", "7"]);
        page.answered(put.number, EMPTY);
        assert_eq!(ids(&page), ["1", "2", "5", "6", "7"]);
        assert_eq!((shown_text(&page, "5"), shown_text(&page, "7")), ("first", "new"));
        assert_eq!(page.held().count(), 0);
    }

    #[test]
    fn held_add_that_throws_bars_those_behind_it() {
        let mut page = page();
        page.create(fields("new"));
        let post = request(&mut page);
        add(&mut page, event("5", "fine"));
        add(&mut page, json!({"id": "6", "text": "no dates"}));
        add(&mut page, event("7", "barred"));
        page.answered(post.number, inserted("4"));
        assert_eq!(ids(&page), ["1", "2", "4", "5"]);
        assert!(!page.can_save());
        update(&mut page, event("5", "cures"));
        assert!(page.can_save());
        page.change("5", text("x"));
        let put = request(&mut page);
        page.answered(put.number, EMPTY);
        assert_eq!((ids(&page), page.can_save(), page.held().count()), (vec!["1", "2", "4", "5"], false, 2));
    }

    #[test]
    fn failed_insert_keeps_adds_hidden_until_it_has_been_saved() {
        let mut page = page();
        let id = page.create(fields("new"));
        let post = request(&mut page);
        add(&mut page, event("5", "held"));
        page.answered(post.number, Answer::Failed);
        assert!(page.is_idle() && page.unsaved() == [id.as_str()]);
        // nothing is being inserted now
        add(&mut page, event("6", "not held"));
        assert_eq!(ids(&page), ["1", id.as_str(), "2", "6"]);
        page.change(&id, text("again"));
        let post = request(&mut page);
        assert_eq!(post.method, Method::Post);
        page.answered(post.number, inserted("7"));
        assert_eq!(ids(&page), ["1", "2", "5", "6", "7"]);
    }

    #[test]
    fn remote_delete_of_an_event_that_could_not_be_saved_keeps_later_adds_hidden() {
        let mut page = page();
        page.change("1", text("mine"));
        let put = request(&mut page);
        page.answered(put.number, Answer::Failed);
        delete(&mut page, json!({"id": "1"}));
        assert_eq!((ids(&page), page.unsaved()), (vec!["2"], &["1".to_owned()][..]));
        page.create(fields("new"));
        let post = request(&mut page);
        add(&mut page, event("8", "of another page"));
        page.answered(post.number, inserted("9"));
        assert_eq!((ids(&page), page.held().count()), (vec!["2", "9"], 1));
        // sent again when no insert is in flight, it is taken
        add(&mut page, event("8", "of another page"));
        assert_eq!(ids(&page), ["2", "8", "9"]);
    }

    #[test]
    fn duplicate_add_and_unknown_update_and_delete_are_skipped() {
        let mut page = page();
        add(&mut page, event("1", "again"));
        update(&mut page, event("3", "unknown"));
        delete(&mut page, json!({"id": "3"}));
        update(&mut page, json!({"id": "2", "text": "changed", "start_date": null, "color": "red"}));
        assert_eq!((ids(&page), shown_text(&page, "1")), (vec!["1", "2"], "one"));
        let mut two = map(event("2", "changed"));
        two.insert("color".into(), "red".into());
        assert_eq!(shown(&page, "2"), Some(&two));
        assert!(page.requests().is_empty());
    }

    #[test]
    fn add_without_dates_switches_saving_off() {
        let mut page = page();
        add(&mut page, json!({"id": "3", "text": "no dates", "start_date": null, "end_date": 5}));
        assert!(!page.can_save());
        page.change("1", text("lost"));
        page.delete("2");
        let id = page.create(fields("here only"));
        // what is skipped cures nothing
        add(&mut page, event("1", "again"));
        update(&mut page, event("9", "unknown"));
        assert!(!page.can_save() && page.requests().is_empty());
        update(&mut page, json!({"id": "2"}));
        assert!(page.can_save());
        assert_eq!(shown_text(&page, "1"), "lost");
        page.change(&id, text("sent to an id the server never gave"));
        let put = request(&mut page);
        assert_eq!((put.method, put.id), (Method::Put, Some(id)));
    }

    #[test]
    fn answer_to_a_silent_page_leaves_the_row_unsaved_for_ever() {
        let mut page = page();
        let id = page.create(fields("new"));
        let post = request(&mut page);
        delete(&mut page, json!({"id": "9", "recurring_event_id": "8"}));
        assert!(!page.can_save());
        page.answered(post.number, inserted("7"));
        update(&mut page, json!({"id": "1"}));
        assert!(page.can_save() && page.is_idle());
        assert_eq!((ids(&page), page.unsaved()), (vec!["1", "2", "7"], &[id][..]));
    }

    #[test]
    fn delete_of_the_event_in_the_form_switches_saving_off() {
        let mut page = page();
        assert!(page.open_form("1"));
        delete(&mut page, json!({"id": "1"}));
        assert!(!page.can_save());
        assert_eq!(ids(&page), ["1", "2"]);
        page.cancel_form();
        delete(&mut page, json!({"id": "1"}));
        assert!(page.can_save());
        assert_eq!(ids(&page), ["2"]);
    }

    #[test]
    fn form_saves_what_it_was_opened_with() {
        let mut page = page();
        page.open_form("1");
        update(&mut page, json!({"id": "1", "text": "theirs", "color": "red", "start_date": "2025-04-21 08:00"}));
        assert_eq!(shown_text(&page, "1"), "theirs");
        page.save_form(map(json!({"end_date": "2025-04-21 12:00"})));
        let body = request(&mut page).body;
        let saved = json!({"text": "one", "color": "red", "rrule": "", "start_date": "2025-04-21 10:00",
            "end_date": "2025-04-21 12:00"});
        assert_eq!(Value::Object(body), saved);
    }

    #[test]
    fn cancelling_the_form_keeps_remote_changes() {
        let mut page = page();
        page.open_form("1");
        update(&mut page, event("1", "theirs"));
        page.cancel_form();
        assert_eq!((shown_text(&page, "1"), page.form()), ("theirs", None));
        assert!(page.requests().is_empty());
    }

    #[test]
    fn form_follows_the_new_id() {
        let mut page = page();
        let id = page.create(fields("new"));
        let post = request(&mut page);
        page.open_form(&id);
        page.answered(post.number, inserted("7"));
        page.save_form(text("named"));
        let put = request(&mut page);
        assert_eq!((put.id.as_deref(), &put.body["text"]), (Some("7"), &json!("named")));
    }

    #[test]
    fn list_replaces_events_and_forgets_what_they_waited_for() {
        let mut page = page();
        page.change("1", text("mine"));
        let put = request(&mut page);
        page.delete("1");
        page.load(&[map(event("1", "old"))]);
        assert_eq!((ids(&page), shown_text(&page, "1")), (vec!["1", "2"], "old"));
        page.answered(put.number, done("updated"));
        assert_eq!(request(&mut page).method, Method::Put);
    }

    #[test]
    fn list_with_an_event_without_dates_ends_saving_for_good() {
        let mut page = page();
        page.load(&[map(json!({"id": "3"})), map(event("4", "four"))]);
        update(&mut page, event("1", "fine"));
        page.change("1", text("lost"));
        assert!(page.requests().is_empty() && !page.can_save());
        assert_eq!(ids(&page), ["1", "2"]);
    }

    fn series(id: &str) -> Value {
        let mut series = event(id, "series");
        let more = map(json!({"rrule": "FREQ=DAILY;INTERVAL=1", "duration": 3600, "end_date": "2025-05-21 00:00"}));
        series.as_object_mut().unwrap().extend(more);
        series
    }

    fn exception(id: &str) -> Value {
        let mut exception = event(id, "exception");
        let more = map(json!({"recurring_event_id": "3", "original_start": "2025-04-22 10:00"}));
        exception.as_object_mut().unwrap().extend(more);
        exception
    }

    #[test]
    fn deleted_exception_stays_as_a_marker() {
        let mut page = page();
        add(&mut page, series("3"));
        add(&mut page, exception("4"));
        delete(&mut page, json!({"id": "4"}));
        assert_eq!(shown(&page, "4").unwrap()["deleted"], true);
        delete(&mut page, json!({"id": "3"}));
        assert_eq!(ids(&page), ["1", "2", "4"]);
        update(&mut page, json!({"id": "4", "recurring_event_id": "", "original_start": null, "rrule": ""}));
        delete(&mut page, json!({"id": "4"}));
        assert_eq!(ids(&page), ["1", "2"]);
        // one never seen is added, if it has dates
        delete(&mut page, exception("5"));
        assert_eq!(ids(&page), ["1", "2", "5"]);
    }

    #[test]
    fn user_deletes_a_changed_occurrence_in_two_requests() {
        let mut page = page();
        add(&mut page, series("3"));
        add(&mut page, exception("4"));
        page.delete("4");
        let [post, delete] = page.requests().try_into().unwrap();
        assert_eq!((post.method, &post.body["deleted"]), (Method::Post, &json!(true)));
        assert_eq!((delete.method, delete.id.as_deref()), (Method::Delete, Some("4")));
        page.answered(delete.number, done("deleted"));
        page.answered(post.number, Answer::Ok { tid: Some("5".into()), action: Some("deleted") });
        assert_eq!(ids(&page), ["1", "2", "3", "4", "5"]);
        assert_eq!((&shown(&page, "4").unwrap()["deleted"], page.unsaved().len()), (&json!(true), 0));
    }

    #[test]
    fn changed_occurrence_of_a_new_series_is_corrected_by_a_put_if_the_series_is_answered_first() {
        let answers = [[("s", "3"), ("o", "4")], [("o", "4"), ("s", "3")]];
        for (answers, corrected) in answers.into_iter().zip([true, false]) {
            let mut page = page();
            let id = page.create(map(series("")).into_iter().filter(|(key, _)| key != "id").collect());
            page.change_occurrence(&id, "2025-04-22 10:00", fields("moved"));
            let [s, o] = page.requests().try_into().unwrap();
            assert_eq!(o.body["recurring_event_id"], *id);
            for (which, tid) in answers {
                page.answered(if which == "s" { s.number } else { o.number }, inserted(tid));
            }
            assert_eq!(shown(&page, "4").unwrap()["recurring_event_id"], "3");
            let put = page.requests().pop();
            assert_eq!(put.map(|put| put.body["recurring_event_id"].clone()), corrected.then(|| json!("3")));
        }
    }

    #[test]
    fn rule_that_cannot_be_read_stops_everything_until_it_is_gone() {
        let mut page = page();
        let mut bad = series("3");
        bad["rrule"] = "nonsense".into();
        add(&mut page, bad);
        page.change("1", text("lost"));
        update(&mut page, event("2", "theirs"));
        assert!(page.requests().is_empty() && !page.can_save());
        assert_eq!(shown_text(&page, "2"), "theirs");
        update(&mut page, json!({"id": "3", "rrule": "FREQ=DAILY"}));
        assert!(page.can_save());
    }

    #[test]
    fn rules() {
        for good in ["INTERVAL=1", "freq=daily", "FREQ=WEEKLY;BYDAY=MO,-1FR", "FREQ=DAILY;UNTIL=20250424T000000Z"] {
            assert!(is_rule(good), "{good}");
        }
        for bad in [
            "nonsense",
            "FREQ=NEVER",
            "FREQ=DAILY;;INTERVAL=2",
            "FREQ=DAILY;COUNT",
            "RRULE:FREQ=DAILY",
            "FREQ=DAILY;BYDAY=XX",
            "FREQ=WEEKLY;BYDAY=",
            "FREQ=DAILY;UNTIL=x",
            "FREQ=DAILY;FOO=1",
            "FREQ==DAILY",
        ] {
            assert!(!is_rule(bad), "{bad}");
        }
    }

    #[test]
    fn arrays_are_sent_as_objects() {
        let mut page = page();
        page.change("1", map(json!({"list": [1, {"_a": 1, "b": [2]}], "_private": 1, "none": null})));
        let body = request(&mut page).body;
        assert_eq!(body["list"], json!({"0": 1, "1": {"b": {"0": 2}}}));
        assert_eq!((body.get("_private"), &body["none"]), (None, &Value::Null));
    }
}
