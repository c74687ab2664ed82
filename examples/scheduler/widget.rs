//! The widgets that pages show, under `/widget`.
//!
//! The DHTMLX Scheduler (GPL) and the DHTMLX Gantt (MIT) are software of their own and no part of this repository: npm
//! fetches them into this folder, and without npm pages load them from their maker's public address.

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
const CDN: &str = "https://cdn.dhtmlx.com";
pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const CSS: &str = "text/css; charset=utf-8";

/// The widgets' files under `/widget`.
pub(crate) fn routes() -> Router {
    Router::new().route("/widget/{file}", get(widget_file))
}

/// Where pages find the files of a widget, `scheduler` or `gantt`.
pub(crate) async fn address(widget: &str) -> String {
    if widget_is_here(widget).await { "/widget".to_owned() } else { format!("{CDN}/{widget}/edge") }
}

async fn widget_file(UrlPath(file): UrlPath<String>) -> impl IntoResponse {
    let (widget, kind) = match file.as_str() {
        "dhtmlxscheduler.js" => ("scheduler", JAVASCRIPT),
        "dhtmlxscheduler.css" => ("scheduler", CSS),
        "dhtmlxgantt.js" => ("gantt", JAVASCRIPT),
        "dhtmlxgantt.css" => ("gantt", CSS),
        _ => return Err(StatusCode::NOT_FOUND),
    };
    match tokio::fs::read(codebase(widget).join(file)).await {
        Ok(content) => Ok(([(CONTENT_TYPE, kind)], content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn codebase(widget: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("node_modules/dhtmlx-{widget}/codebase"))
}

/// Looks for a widget's files, and has npm fetch them when they are missing.
async fn widget_is_here(widget: &str) -> bool {
    let script = codebase(widget).join(format!("dhtmlx{widget}.js"));
    if script.is_file() {
        return true;
    }
    eprintln!("fetching the DHTMLX widgets with `npm ci`; this happens once");
    match npm_ci().await {
        Ok(()) if script.is_file() => true,
        Ok(()) => {
            eprintln!("`npm ci` did not bring the {widget}; the page will load it from {CDN}");
            false
        }
        Err(error) => {
            eprintln!("`npm ci` failed: {error}; the page will load the {widget} from {CDN}");
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
