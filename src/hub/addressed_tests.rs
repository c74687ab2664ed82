//! Tests of messages to one session or principal, on any schedule of pages that come, go, and read slowly: no page
//! receives what is for another, and each page receives what is for it, in order.

use proptest::prelude::*;

use super::{
    tests::{Pipe, hub_with, run_slow_path},
    *,
};
use crate::session::Session;

const EVENTS: EntityIndex = EntityIndex(0);
/// Pages: each has a session of its own, and two have one principal.
const PAGES: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    ToAll,
    ToSession(usize),
    ToPrincipal(usize),
    Come(usize),
    Leave(usize),
    /// A page reads so many frames.
    Read(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let page = 0..PAGES;
    prop_oneof![
        Just(Op::ToAll),
        page.clone().prop_map(Op::ToSession),
        (0..PAGES / 2).prop_map(Op::ToPrincipal),
        page.clone().prop_map(Op::Come),
        page.clone().prop_map(Op::Leave),
        (page, 1..5_usize).prop_map(|(page, frames)| Op::Read(page, frames)),
    ]
}

fn principal(page: usize) -> String {
    format!("principal {}", page % 2)
}

fn id(page: usize) -> [u8; 16] {
    [page as u8 + 1; 16]
}

/// What a frame holds as its value: the number of a message, and the pages it is for.
fn value(frame: &[u8]) -> Option<(usize, Vec<usize>)> {
    let text = &frame[frame.iter().position(|byte| *byte == b'{')?..];
    let message: serde_json::Value = serde_json::from_slice(text).ok()?;
    serde_json::from_value(message["body"]["value"].clone()).ok()
}

struct Page {
    subscriber: Arc<Subscriber>,
    pipe: Arc<Pipe>,
}

struct World {
    hub: Arc<Hub>,
    pages: [Option<Page>; PAGES],
    /// Of each message: who it is for.
    sent: Vec<Vec<usize>>,
    received: [Vec<usize>; PAGES],
}

impl World {
    fn send(&mut self, addressee: &Addressee, to: Vec<usize>) {
        let value = serde_json::to_string(&(self.sent.len(), &to)).unwrap();
        self.hub.send_to(EVENTS, &Scopes::All, addressee, &value);
        self.sent.push(to);
    }

    fn come(&mut self, page: usize, direct: bool) {
        if self.pages[page].is_some() {
            return;
        }
        let pipe = Pipe::new(direct, 1);
        // A page's key says where it was at its handshake: at the beginning of everything.
        let session = Some(SessionId { id: id(page), owner: 7 });
        let resume = ResumeFrom::Page { session, missed_from: Some(Sequence::ZERO) };
        let subscriber = self.hub.join(pipe.clone(), Identity::new(principal(page)), resume);
        assert!(subscriber.session() == Session(id(page)));
        subscriber.subscribe(EVENTS, Instant::now());
        self.pages[page] = Some(Page { subscriber, pipe });
    }

    /// What a page has received on this connection: all that is for it from the first on, each once and in order.
    fn check(&mut self, page: usize) {
        let Some(Page { pipe, .. }) = &self.pages[page] else { return };
        let values: Vec<(usize, Vec<usize>)> = pipe.out().iter().filter_map(|frame| value(frame)).collect();
        for (number, to) in &values {
            assert!(to.contains(&page) && self.sent[*number] == *to, "page {page} receives {number}, for {to:?}");
        }
        self.received[page] = values.iter().map(|(number, _)| *number).collect();
        let meant = (0..self.sent.len()).filter(|number| self.sent[*number].contains(&page));
        let expected: Vec<usize> = meant.take(self.received[page].len()).collect();
        assert_eq!(self.received[page], expected, "page {page}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_page_receives_what_is_for_another_and_each_receives_what_is_for_it(
        ops in proptest::collection::vec((op(), any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let hub = hub_with(1000, Delivery::Converging);
            let mut world = World { hub, pages: [const { None }; PAGES], sent: Vec::new(), received: Default::default() };
            for (op, flag) in ops {
                match op {
                    Op::ToAll => world.send(&Addressee::Everyone, (0..PAGES).collect()),
                    Op::ToSession(page) => world.send(&Addressee::Session(Session(id(page))), vec![page]),
                    Op::ToPrincipal(at) => {
                        let to = (0..PAGES).filter(|page| page % 2 == at).collect();
                        world.send(&Addressee::Principal(principal(at).into()), to);
                    }
                    Op::Come(page) => world.come(page, flag),
                    Op::Leave(page) => {
                        world.check(page);
                        if let Some(left) = world.pages[page].take() {
                            world.hub.leave(&left.subscriber, Instant::now());
                        }
                    }
                    Op::Read(page, frames) => {
                        if let Some(Page { subscriber, pipe }) = &world.pages[page] {
                            *lock(&pipe.room) += frames;
                            run_slow_path(subscriber);
                        }
                    }
                }
                if flag {
                    tests::let_others_run().await;
                }
            }
            for page in 0..PAGES {
                world.come(page, false);
                let Some(Page { subscriber, pipe }) = &world.pages[page] else { unreachable!() };
                *lock(&pipe.room) += 1000;
                run_slow_path(subscriber);
                tests::let_others_run().await;
                run_slow_path(subscriber);
                world.check(page);
                let meant = world.sent.iter().filter(|to| to.contains(&page)).count();
                assert_eq!(world.received[page].len(), meant, "page {page} has all of them");
            }
        });
    }
}
