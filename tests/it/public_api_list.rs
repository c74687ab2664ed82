//! The public API is listed in `docs/public-api.txt`, so that every change of it is seen and decided.
//!
//! The list is derived from the sources as rustfmt writes them: the names that `lib.rs` and its public modules export, and
//! of these types the fields, variants, public methods and trait implementations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const RENEW: &str = "RENEW_PUBLIC_API";

#[test]
fn every_change_of_the_public_api_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (path, found) = (root.join("docs/public-api.txt"), public_api(&root.join("src")));
    if std::env::var_os(RENEW).is_some() {
        fs::write(&path, found.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    let listed: BTreeSet<&str> = text.lines().collect();
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let removed = listed.difference(&found).map(|line| format!("- {line}\n"));
    let changes: String = removed.chain(found.difference(&listed).map(|line| format!("+ {line}\n"))).collect();
    assert!(
        changes.is_empty(),
        "the public API differs from docs/public-api.txt:\n{changes}if that is intended, describe it in CHANGELOG.md and \
         renew the list:\n{RENEW}=1 cargo test --test it -- public_api_list"
    );
}

#[test]
fn the_list_knows_fields_variants_methods_and_implementations() {
    let found = public_api(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for line in [
        "#[non_exhaustive] enum ConfigError",
        "fn LiveUpdates::endpoint(&self) -> LiveUpdatesEndpoint",
        "#[cfg(feature = \"axum\")] fn LiveUpdatesLayer::axum(self) -> LiveUpdatesLayer<crate::body::Axum>",
        "field Stats::connections: u64",
        "field Stats::hooks_failed: u64",
        "variant AuthError::Expired",
        "variant ConfigError::RouteWithoutId { entity: String, path: String }",
        "async fn LiveUpdates::shutdown(&self)",
        "impl Clone for Change",
        "impl<S, M> Layer<S> for LiveUpdatesLayer<M>",
        "struct builder::HasAuth",
        "pub use builder::LiveUpdatesBuilder",
        "fn Authenticate::authenticate(&self, request: AuthRequest) -> \
         impl Future<Output = Result<Identity, AuthError>> + Send",
    ] {
        assert!(found.iter().any(|found| found == line), "{line} is missing in {found:#?}");
    }
}

/// Each item of the public API in a line, sorted by its path.
fn public_api(src: &Path) -> Vec<String> {
    let mut files = Vec::new();
    source_files(src, &mut files);
    let mut api = Api::default();
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    api.export(&lib, "");
    for module in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        let files = [src.join(format!("{module}.rs")), src.join(module).join("mod.rs")];
        let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
        api.export(&text, &format!("{module}::"));
    }
    for file in files {
        api.read(&fs::read_to_string(file).unwrap());
    }
    api.lines.into_iter().map(|(_, line)| line).collect()
}

/// The crate's sources without tests and benches.
fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            source_files(&path, files);
        } else if name.ends_with(".rs") && !["bench.rs", "tests.rs"].contains(&name) {
            files.push(path);
        }
    }
}

#[derive(Default)]
struct Api {
    /// The public path of each exported type.
    paths: BTreeMap<String, String>,
    /// Each line behind the path that it is sorted by.
    lines: BTreeSet<(String, String)>,
}

impl Api {
    /// Takes in the names that the text of a public module exports.
    fn export(&mut self, text: &str, module: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if let Some(start) = line.strip_prefix("pub use ") {
                let rest = std::iter::once(start).chain(lines[at + 1..].iter().copied());
                let names = up_to(rest, |line| line.ends_with(';'));
                for name in names.split(|c: char| !c.is_alphanumeric() && c != '_') {
                    if name.starts_with(char::is_uppercase) {
                        self.name(name, module);
                    }
                }
            }
            let kinds = ["struct ", "enum ", "trait ", "type "];
            if let Some(item) = line.strip_prefix("pub ").filter(|_| !module.is_empty()) {
                if let Some(rest) = kinds.iter().find_map(|kind| item.strip_prefix(kind)) {
                    self.name(ident(rest), module);
                }
            }
        }
    }

    fn name(&mut self, name: &str, module: &str) {
        let path = format!("{module}{name}");
        if let Some(known) = self.paths.get(name) {
            if *known != path {
                self.lines.insert((path.clone(), format!("pub use {path}")));
            }
        } else {
            self.paths.insert(name.to_owned(), path);
        }
    }

    fn add(&mut self, path: &str, line: String) {
        self.lines.insert((path.to_owned(), line));
    }

    /// Takes in the items of one source file.
    fn read(&mut self, text: &str) {
        let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let (indent, item) = (line.len() - line.trim_start().len(), line.trim_start());
            let rest = || lines[at..].iter().copied();
            let is_in_macro = at > 0 && lines[at - 1].contains('$');
            if indent == 0 && (item.starts_with("impl ") || item.starts_with("impl<")) {
                self.read_impl(&signature(rest()), &block(rest(), indent));
            }
            for kind in ["struct", "enum", "trait", "type"] {
                let start = item.strip_prefix("pub ").and_then(|item| item.strip_prefix(kind)?.strip_prefix(' '));
                let start = start.filter(|_| !is_in_macro);
                let Some(path) = start.and_then(|start| self.paths.get(ident(start))).cloned() else { continue };
                let signature = signature(rest()).replacen(&format!("pub {kind} "), "", 1);
                let (head, fields) = match signature.split_once('(') {
                    Some((head, fields)) if kind == "struct" => (head.to_owned(), fields.to_owned()),
                    _ => (signature, String::new()),
                };
                let generics = &head[ident(&head).len()..];
                let attributes = attributes(&lines[..at]);
                for derived in attributes.iter().filter_map(|it| it.strip_prefix("#[derive(")?.strip_suffix(")]")) {
                    // The derive of `thiserror` writes both.
                    let display = derived.split(", ").any(|it| it == "Error").then_some("Display");
                    let derived = derived.split(", ").chain(display);
                    derived.for_each(|derived| self.add(&path, format!("impl {derived} for {path}")));
                }
                self.add(&path, format!("{}{kind} {path}{generics}", shown(&attributes)));
                for field in parts(&fields).iter().filter(|field| field.starts_with("pub ")) {
                    self.add(&path, format!("field {path}::{field}"));
                }
                self.read_body(&path, kind, &block(rest(), indent));
            }
        }
    }

    /// Takes in what the block of a type or trait declares.
    fn read_body(&mut self, path: &str, kind: &str, body: &[&str]) {
        if kind == "enum" {
            let mut is_attribute = false;
            let is_code = |line: &&&str| {
                let line = line.trim_start();
                let is_start = line.starts_with("#[");
                let is_code = !is_attribute && !is_start && !line.starts_with('/');
                is_attribute = (is_attribute || is_start) && !line.ends_with(']');
                is_code
            };
            let body: Vec<&str> = body.iter().filter(is_code).copied().collect();
            for variant in parts(&normal(&body.join(" ").replace("#[source] ", ""))) {
                self.add(path, format!("variant {path}::{variant}"));
            }
        }
        for (at, line) in body.iter().enumerate() {
            let line = line.trim_start();
            if let Some(field) = line.strip_prefix("pub ").filter(|_| kind == "struct") {
                self.add(path, format!("field {path}::{}", field.trim_end_matches(',')));
            }
            if let Some(name) = line.strip_prefix("fn ").filter(|_| kind == "trait") {
                let signature = signature(body[at..].iter().copied());
                self.add(path, format!("fn {path}::{}{}", ident(name), &signature["fn ".len() + ident(name).len()..]));
            }
        }
    }

    fn read_impl(&mut self, header: &str, body: &[&str]) {
        let generics = if header.starts_with("impl<") { closing(&header["impl".len()..]) + "impl".len() } else { 4 };
        let subject = header[generics..].trim_start();
        let (of_trait, of_type) = match subject.split_once(" for ") {
            Some((of_trait, of_type)) => (Some(of_trait), of_type),
            None => (None, subject),
        };
        let Some(path) = self.paths.get(ident(of_type)).cloned() else { return };
        let full = format!("{path}{}", &of_type[ident(of_type).len()..]);
        if let Some(of_trait) = of_trait {
            self.add(&path, format!("{} {of_trait} for {full}", &header[..generics]));
        }
        for (at, line) in body.iter().enumerate() {
            let item = line.trim_start();
            let start = if of_trait.is_some() { item.strip_prefix("type ") } else { item.strip_prefix("pub ") };
            if start.is_some() && line.len() - item.len() == 4 {
                let signature = signature(body[at..].iter().copied());
                let declared = signature.trim_start_matches("pub ");
                let words = ["const ", "async ", "unsafe ", "type ", "fn "];
                let name = words.iter().fold(declared, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
                let kind = &declared[..declared.len() - name.len()];
                let name = name.replacen("(mut self", "(self", 1);
                self.add(&path, format!("{}{kind}{path}::{name}", shown(&attributes(&body[..at]))));
            }
        }
    }
}

/// The name that a text starts with.
fn ident(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// Joins lines up to the first that is the last.
fn up_to<'t>(lines: impl Iterator<Item = &'t str>, is_last: impl Fn(&str) -> bool) -> String {
    let mut joined = String::new();
    for line in lines {
        joined.push_str(line.trim());
        joined.push(' ');
        if is_last(line.trim()) {
            break;
        }
    }
    normal(&joined)
}

/// A declaration up to its block or semicolon, in one line however rustfmt has broken it.
fn signature<'t>(lines: impl Iterator<Item = &'t str>) -> String {
    let whole = up_to(lines, |line| line.ends_with('{') || line.ends_with(';') || line.ends_with('}'));
    whole.trim_end_matches(['{', '}', ';', ' ', ',']).to_owned()
}

fn normal(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace("( ", "(").replace(", )", ")").replace(" )", ")").replace(", }", " }")
}

/// The lines of the block that starts at the first line, without its ends.
fn block<'t>(lines: impl Iterator<Item = &'t str>, indent: usize) -> Vec<&'t str> {
    let end = format!("{}}}", " ".repeat(indent));
    let is_open = |line: &&str| !line.ends_with('{');
    let mut lines = lines.peekable();
    if lines.peek().is_some_and(|line| line.ends_with([';', '}'])) {
        return Vec::new();
    }
    lines.skip_while(is_open).skip(1).take_while(|line| *line != end).collect()
}

/// The attributes above a declaration, its last lines of documentation left out.
fn attributes<'t>(above: &[&'t str]) -> Vec<&'t str> {
    let lines = above.iter().rev().map(|line| line.trim_start());
    let lines = lines.take_while(|line| line.starts_with("#[") || line.starts_with("///"));
    lines.filter(|line| line.starts_with("#[")).collect()
}

/// Of these attributes, those that belong to the API.
fn shown(attributes: &[&str]) -> String {
    let is_shown = |it: &&&str| it.starts_with("#[non_exhaustive") || it.starts_with("#[cfg(");
    attributes.iter().filter(is_shown).map(|it| format!("{it} ")).collect()
}

/// Where the bracket closes that the text starts with.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    let end = text.char_indices().position(|(at, c)| {
        let is_arrow = c == '>' && text[..at].ends_with('-');
        depth += i32::from(c == '<') - i32::from(c == '>' && !is_arrow);
        depth == 0
    });
    end.map_or(text.len(), |end| end + 1)
}

/// The parts between the commas that stand in no brackets.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        depth += i32::from("([{<".contains(c)) - i32::from(")]}>".contains(c));
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}
