//! The widget that the page shows, under `/widget`.
//!
//! The DHTMLX Scheduler is GPL software of its own and no part of this repository: npm fetches it into this folder,
//! and without npm the page loads it from its maker's public address.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use axum::{
    Router,
    extract::Path as UrlPath,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scheduler");
const CDN: &str = "https://cdn.dhtmlx.com/scheduler/edge";
pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const CSS: &str = "text/css; charset=utf-8";

/// The widget's files under `/widget`.
pub(crate) fn routes() -> Router {
    Router::new().route("/widget/{file}", get(widget_file))
}

/// Where pages find the widget's files.
pub(crate) async fn address() -> &'static str {
    if widget_is_here().await { "/widget" } else { CDN }
}

async fn widget_file(UrlPath(file): UrlPath<String>) -> impl IntoResponse {
    let kind = match file.as_str() {
        "dhtmlxscheduler.js" => JAVASCRIPT,
        "dhtmlxscheduler.css" => CSS,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    match tokio::fs::read(codebase().join(file)).await {
        Ok(content) => Ok(([(CONTENT_TYPE, kind)], content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn codebase() -> PathBuf {
    Path::new(FOLDER).join("node_modules/dhtmlx-scheduler/codebase")
}

/// Looks for the widget's files, and has npm fetch them when they are missing.
async fn widget_is_here() -> bool {
    let script = codebase().join("dhtmlxscheduler.js");
    if script.is_file() {
        return true;
    }
    eprintln!("fetching the DHTMLX Scheduler with `npm ci`; this happens once");
    match npm_ci().await {
        Ok(()) if script.is_file() => true,
        Ok(()) => {
            eprintln!("`npm ci` did not bring the files; the page will load them from {CDN}");
            false
        }
        Err(error) => {
            eprintln!("`npm ci` failed: {error}; the page will load the scheduler from {CDN}");
            false
        }
    }
}

async fn npm_ci() -> io::Result<()> {
    const LONGEST: Duration = Duration::from_secs(120);

    let npm = Command::new("npm").arg("ci").current_dir(FOLDER).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONGEST, npm).await??;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(errors.lines().next().unwrap_or("no error output").to_owned()))
}
