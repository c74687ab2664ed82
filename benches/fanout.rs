//! What the hub costs for each record and subscriber: broadcast, replay, and debounced repeat.
//!
//! The subscribers accept every frame, so no socket is in these numbers. One thread runs the fan-out and the
//! subscribers on the slow path.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use tokio::runtime::{Builder, Runtime};
use tower_live_updates::bench::{Audience, Bench};

const SUBSCRIBERS: [usize; 3] = [1, 100, 10_000];
/// As many as a page misses in a short while.
const RECORDS: usize = 100;

/// Measures `publish`, which sends all subscribers so many records, after `before`, which is not measured.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    (subscribers, audience, records): (usize, Audience, usize),
    before: impl Fn(&mut Bench),
    publish: impl Fn(&mut Bench),
) {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Made when it is needed: not all that is named here is always run.
    let mut bench = None;
    group.throughput(Throughput::Elements((records * subscribers) as u64));
    group.bench_function(format!("{name}/{subscribers}"), |bencher| {
        bencher.iter_custom(|count| {
            let bench = bench.get_or_insert_with(|| runtime.block_on(Bench::new(subscribers, audience)));
            runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    before(bench);
                    bench.received().await;
                    let began = Instant::now();
                    publish(bench);
                    bench.received().await;
                    total += began.elapsed();
                }
                total
            })
        });
    });
}

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fanout");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let nothing = |_: &mut Bench| {};
    for subscribers in SUBSCRIBERS {
        let all = (subscribers, Audience::All, RECORDS);
        let one = (subscribers, Audience::All, 1);
        measure(&mut group, "publish one", one, nothing, |bench| bench.publish(1));
        measure(&mut group, "publish a hundred", all, nothing, |bench| bench.publish(RECORDS));
        measure(&mut group, "replay a hundred", all, nothing, |bench| bench.reconnect_all(RECORDS));
        let contended = |bench: &mut Bench| bench.publish_contended(RECORDS);
        measure(&mut group, "settle a hundred", all, contended, |bench| bench.settle(RECORDS));
    }
    for subscribers in [100, 10_000] {
        for (name, audience) in [
            ("publish a hundred, all in scope", Audience::InScope),
            ("publish a hundred, none in scope", Audience::OutOfScope),
            ("publish a hundred, 1 of 100 scopes", Audience::OneIn100),
            ("publish a hundred, visible hook", Audience::Visible),
        ] {
            let audience = (subscribers, audience, RECORDS);
            measure(&mut group, name, audience, nothing, |bench| bench.publish(RECORDS));
        }
    }
    group.finish();
}

/// Fields of an object of 1 MiB.
const MANY_FIELDS: usize = 100_000;

/// What a large object costs its own write, and what it costs another one at the same time: that waits for the log
/// while it is locked, and for nothing else. Needs two cores.
fn large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("large");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut bench = runtime.block_on(Bench::new(0, Audience::All));
    let publish_large = bench.large(MANY_FIELDS);
    group.bench_function("publish one of 1 MiB", |bencher| bencher.iter(&publish_large));
    group.bench_function("publish one", |bencher| bencher.iter(|| bench.publish(black_box(1))));
    group.bench_function("publish one beside those of 1 MiB", |bencher| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    publish_large();
                }
            });
            bencher.iter(|| bench.publish(black_box(1)));
            is_over.store(true, Ordering::Relaxed);
        });
    });
    group.finish();
}

criterion_group!(benches, fanout, large);
criterion_main!(benches);
