//! The promise for a Gantt page, tried as for the Scheduler's: tasks in a tree, links between them, one saving state for
//! both.

mod page;
mod store;
mod users;
mod verdict;
mod world;

use self::world::World;
use crate::hub::Delivery;

fn run(seed: u64, delivery: Delivery) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async { World::new(seed, delivery).run().await })
}

#[test]
fn after_quiet_every_gantt_page_equals_the_store() {
    super::run_all(super::seeds(), |seed| run(seed, Delivery::Converging));
    eprintln!("{} pages were loaded anew", world::RELOADS.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn what_failed_once_does_not_fail_again() {
    super::run_all(super::failed_once("gantt "), |seed| run(seed, Delivery::Converging));
}
