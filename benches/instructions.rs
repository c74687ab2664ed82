//! What the layer costs a request, in instructions, which do not wobble as times do.
//!
//! `cargo bench --features axum --bench instructions` runs each scenario under valgrind (which must be installed) with
//! so many requests and with twice as many. The difference is what the requests cost, without start and end. It is the
//! same in every run, whatever else the machine does: to an instruction or two, since keys of hash maps are random.

use std::{env, error::Error, hint::black_box, process::Command};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, header},
    routing::{get, put},
};
use tokio::runtime::Builder;
use tower::{Service, layer::util::Identity};
use tower_live_updates::{Entity, LiveUpdates};

const REQUESTS: u64 = 5_000;
/// Requests before the first that counts: maps and buffers have their size then.
const WARM_UP: u64 = 1_000;
/// The C library's allocator looks for room in as many steps as chance wants, unless it keeps enough of it at hand.
const ALLOCATOR: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=1000");
const EVENT: &str = r#"{"text":"Standup","start_date":"2026-11-25 09:00","end_date":"2026-11-25 09:15"}"#;
const ANSWER: &str = r#"{"action":"updated"}"#;

#[derive(Clone, Copy)]
enum Wrapped {
    Bare,
    Identity,
    Axum,
    Generic,
}

struct Scenario {
    name: &'static str,
    method: Method,
    wrapped: Wrapped,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "GET, bare router", method: Method::GET, wrapped: Wrapped::Bare },
    Scenario { name: "GET, tower's Identity", method: Method::GET, wrapped: Wrapped::Identity },
    Scenario { name: "GET, live.layer().axum()", method: Method::GET, wrapped: Wrapped::Axum },
    Scenario { name: "GET, live.layer()", method: Method::GET, wrapped: Wrapped::Generic },
    Scenario { name: "PUT, bare router", method: Method::PUT, wrapped: Wrapped::Bare },
    Scenario { name: "PUT, live.layer().axum()", method: Method::PUT, wrapped: Wrapped::Axum },
    Scenario { name: "PUT, live.layer()", method: Method::PUT, wrapped: Wrapped::Generic },
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    if let [_, scenario, requests] = &arguments[..] {
        return run(&SCENARIOS[scenario.parse::<usize>()?], requests.parse()?);
    }
    let mut bare = 0.0;
    println!("{:<28}{:>14}{:>14}", "instructions per request", "in all", "above bare");
    for (place, scenario) in SCENARIOS.iter().enumerate() {
        let [once, twice] = [REQUESTS, 2 * REQUESTS].map(|requests| instructions(place, requests));
        let each = (twice? - once?) as f64 / REQUESTS as f64;
        if matches!(scenario.wrapped, Wrapped::Bare) {
            bare = each;
        }
        println!("{:<28}{each:>14.0}{:>+14.0}", scenario.name, each - bare);
    }
    Ok(())
}

/// What a process executes that serves so many requests.
fn instructions(scenario: usize, requests: u64) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([scenario.to_string(), requests.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.ok_or_else(|| format!("valgrind has counted nothing: {report}"))?;
    Ok(count.trim().parse()?)
}

fn run(scenario: &Scenario, requests: u64) -> Result<(), Box<dyn Error>> {
    // The log has its size after the first requests, too.
    let live = LiveUpdates::builder("/api/v1")
        .allow_anonymous()
        .entity(Entity::scheduler("/events"))
        .max_log_records(100)
        .build()?;
    let router = Router::new().route("/plain", get(async || "hello")).route(
        "/events/{id}",
        put(async |event: String| {
            black_box(event);
            ([(header::CONTENT_TYPE, "application/json")], ANSWER)
        }),
    );
    let router = match scenario.wrapped {
        Wrapped::Bare => router,
        Wrapped::Identity => router.layer(Identity::new()),
        Wrapped::Axum => router.layer(live.layer().axum()),
        Wrapped::Generic => router.layer(live.layer()),
    };
    // As it is served: without, axum makes its routes anew for each request.
    let mut router: Router = router.with_state(());
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        for _ in 0..WARM_UP + requests {
            let response = router.call(request(&scenario.method)?).await?;
            black_box(to_bytes(response.into_body(), usize::MAX).await?);
        }
        Ok(())
    })
}

fn request(method: &Method) -> Result<Request<Body>, Box<dyn Error>> {
    let request = Request::builder().method(method).header(header::CONTENT_TYPE, "application/json");
    Ok(match *method {
        Method::PUT => request.uri("/events/7").body(Body::from(EVENT))?,
        _ => request.uri("/plain").body(Body::empty())?,
    })
}
