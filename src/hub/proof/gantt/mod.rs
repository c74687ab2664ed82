//! The promise for a Gantt page, tried as for the Scheduler's: tasks in a tree, links between them, one saving state for
//! both.

mod page;
mod rules;
mod store;
mod users;
mod verdict;
mod world;

use self::{rules::Rule, world::World};
use crate::hub::Delivery;

fn run(seed: u64, delivery: Delivery, without: Option<Rule>, late: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async { World::new(seed, delivery, without, late).run().await })
}

#[test]
fn after_quiet_every_gantt_page_equals_the_store() {
    super::run_all(super::seeds(), |seed| run(seed, Delivery::Converging, None, false));
    eprintln!("{} pages were loaded anew", world::RELOADS.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn what_failed_once_does_not_fail_again() {
    super::run_all(super::failed_once("gantt "), |seed| run(seed, Delivery::Converging, None, false));
}

/// How many of these schedules fail.
fn failures(seeds: std::ops::Range<u64>, without: Option<Rule>, late: bool) -> usize {
    seeds.filter(|&seed| run(seed, Delivery::Converging, without, late).is_err()).count()
}

/// Neither rule is there in vain: without it, pages end up different.
#[test]
fn without_one_of_its_rules_the_layer_fails() {
    for rule in [Rule::OwnAddsLater, Rule::ParentsFirst] {
        assert!((1..400).any(|seed| run(seed, Delivery::Converging, Some(rule), false).is_err()), "without {rule:?}");
    }
}

/// Answers that come later than the layer waits leave links twice on some pages, and only what is sent afresh ends that. Where
/// a user deletes one of the two before, nothing does.
#[test]
fn links_that_are_not_sent_afresh_stay_twice() {
    let (with, without) = (failures(1..100, None, true), failures(1..100, Some(Rule::LinksAfresh), true));
    assert!(without > 2 * with, "{without} and {with}");
}
