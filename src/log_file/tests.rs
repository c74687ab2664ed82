use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::*;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tower-live-updates-{}", random::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("live.log")
    }

    fn open(&self) -> (LogFile, Found) {
        LogFile::open(&self.file(), 1 << 20).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn save(file: &LogFile, text: &str) -> Saved {
    file.save(|| (), |(), out| out.write_all(text.as_bytes())).unwrap()
}

fn log(text: &str) -> Found {
    Found::Log(text.as_bytes().to_vec())
}

fn is_unusable(found: &Found, why: &str) -> bool {
    matches!(found, Found::Unusable(reason) if reason.contains(why))
}

#[test]
fn a_log_saved_at_the_end_is_found_once_at_the_next_start() {
    let folder = Folder::new();
    let (first, found) = folder.open();
    assert_eq!(found, Found::Nothing);
    first.close();
    save(&first, "a\nlog\n");
    assert_eq!(folder.open().1, log("a\nlog\n"));
    assert!(is_unusable(&folder.open().1, "did not end with shutdown"), "the second process has died");
    assert_eq!(folder.names(), ["live.log"], "nothing is left beside it");
}

#[test]
fn while_a_write_is_ongoing_the_file_holds_a_claim() {
    let folder = Folder::new();
    let held = || folder.open().1;
    let (file, _) = folder.open();
    file.write_begins().unwrap();
    file.close();
    save(&file, "too early");
    assert!(is_unusable(&held(), "shutdown"));

    let (file, _) = folder.open();
    file.write_begins().unwrap();
    file.close();
    assert!(file.write_ends(), "it is to be saved now");
    save(&file, "then");
    file.write_begins().unwrap();
    file.write_begins().unwrap();
    assert!(is_unusable(&held(), "shutdown"));

    let (file, _) = folder.open();
    file.close();
    save(&file, "before");
    file.write_begins().unwrap();
    file.write_begins().unwrap();
    assert!(!file.write_ends(), "another is ongoing");
    assert!(file.write_ends());
    save(&file, "behind both");
    assert_eq!(held(), log("behind both"));
}

#[test]
fn a_write_that_begins_while_the_log_is_written_is_not_missing_in_it() {
    let folder = Folder::new();
    let (file, _) = folder.open();
    file.close();
    let copies = AtomicUsize::new(0);
    let copy = || copies.fetch_add(1, Ordering::SeqCst);
    let write = |number: &usize, out: &mut dyn Write| {
        if *number == 0 {
            file.write_begins().unwrap();
            assert!(file.write_ends());
        }
        write!(out, "copy {number}")
    };
    assert_eq!(file.save(copy, write).unwrap(), Saved::Done);
    assert_eq!(folder.open().1, log("copy 1"));
}

#[test]
fn a_running_process_does_not_touch_the_disk_for_a_write() {
    let folder = Folder::new();
    let (file, _) = folder.open();
    fs::remove_dir_all(&folder.0).unwrap();
    file.write_begins().unwrap();
    assert!(!file.write_ends());
}

#[test]
fn of_two_processes_the_history_of_the_newer_counts() {
    let folder = Folder::new();
    let (old, _) = folder.open();
    let (new, _) = folder.open();
    old.close();
    assert_eq!(save(&old, "old"), Saved::Foreign);
    old.write_begins().unwrap();
    old.write_ends();
    new.close();
    assert_eq!(save(&new, "new"), Saved::Done);
    assert_eq!(folder.open().1, log("new"));
}

#[test]
fn a_log_that_a_newer_process_has_read_is_not_replaced_by_a_claim_of_the_older() {
    let folder = Folder::new();
    let (old, _) = folder.open();
    old.close();
    save(&old, "old");
    let (new, found) = folder.open();
    assert_eq!(found, log("old"));
    new.close();
    save(&new, "new");
    old.write_begins().unwrap();
    assert_eq!(folder.open().1, log("new"));
}

#[test]
fn what_is_no_whole_log_is_not_used_and_replaced() {
    let folder = Folder::new();
    let content = || {
        let (file, _) = folder.open();
        file.close();
        save(&file, "a log of some length\n");
        fs::read(folder.file()).unwrap()
    };
    let good = content();
    let text = String::from_utf8(good.clone()).unwrap();
    for (bad, why) in [
        ("no log".to_owned(), "no log file"),
        ("{}\n".to_owned(), "no log file"),
        (text.replace("some length", "such length"), "damaged"),
        (text.replace(r#""version":1"#, r#""version":2"#), "version 2"),
        (format!("{text}more\n"), "damaged"),
        (text.lines().next().unwrap().to_owned(), "damaged"),
    ] {
        fs::write(folder.file(), bad).unwrap();
        let found = folder.open().1;
        assert!(is_unusable(&found, why), "{found:?}");
        assert!(is_unusable(&folder.open().1, "shutdown"), "a claim is there instead");
    }
    for end in 1..good.len() {
        fs::write(folder.file(), &good[..end]).unwrap();
        let found = folder.open().1;
        assert!(matches!(found, Found::Unusable(_)), "{end} of {} bytes: {found:?}", good.len());
    }
    fs::write(folder.file(), "").unwrap();
    assert_eq!(folder.open().1, Found::Nothing, "an empty file is none");
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let folder = Folder::new();
    let (file, _) = folder.open();
    file.close();
    save(&file, &"x".repeat(1000));
    let size = fs::metadata(folder.file()).unwrap().len();
    let (_, found) = LogFile::open(&folder.file(), size - 1).unwrap();
    assert!(is_unusable(&found, "more than"), "{found:?}");
}

#[test]
fn what_cannot_be_a_file_is_an_error() {
    let folder = Folder::new();
    assert!(LogFile::open(&folder.0, 1000).is_err(), "a folder");
    assert!(LogFile::open(&folder.0.join("none/live.log"), 1000).is_err(), "no folder");
    assert!(LogFile::open(std::path::Path::new("/"), 1000).is_err());
}

#[test]
fn what_was_left_of_a_file_that_was_being_written_is_removed() {
    let folder = Folder::new();
    fs::write(folder.0.join("live.log.tmp-0123"), "half").unwrap();
    fs::write(folder.0.join("live.log.txt"), "another's").unwrap();
    let _file = folder.open();
    let mut names = folder.names();
    names.sort();
    assert_eq!(names, ["live.log", "live.log.txt"]);
}

#[cfg(unix)]
#[test]
fn no_other_user_may_read_it_and_a_link_stays_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let link = folder.0.join("link");
    fs::write(folder.file(), "").unwrap();
    std::os::unix::fs::symlink(folder.file(), &link).unwrap();
    let (file, _) = LogFile::open(&link, 1000).unwrap();
    file.close();
    save(&file, "log");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.open().1, log("log"));
}

proptest! {
    #[test]
    fn junk_is_read_without_panic(junk in ".{0,200}", line in 0_usize..4) {
        let header = Header { holds: Holds::Log, holder: "x".to_owned(), generation: 1 };
        let content = match line {
            0 => junk,
            1 => format!("{}\n{junk}", header.to_line()),
            2 => format!("{}\n{junk}\n", header.to_line()),
            _ => format!("{}\n{{\"bytes\":{junk}}}\n", header.to_line()),
        };
        prop_assert!(disk::decode(content.as_bytes()).is_err());
    }
}
