//! `docs/architecture.md` names the files of this crate: each of them exists.

use std::{fs, path::Path};

#[test]
fn the_files_that_the_architecture_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |name: &&str| name.contains('/') && name.chars().all(|c| c.is_ascii_lowercase() || "/_".contains(c));
    let names: Vec<&str> = quoted.filter(is_path).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let files = [format!("src/{name}.rs"), format!("src/{name}"), name.to_owned()];
        assert!(files.iter().any(|file| root.join(file).exists()), "{name} is named and does not exist");
    }
}
