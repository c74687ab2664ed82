//! Reads and writes the file atomically, and verifies it.
//!
//! The first line is a header, the last line holds the number of bytes before it and their checksum. The lines between
//! are the caller's.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hash::Hasher,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use siphasher::sip128::{Hasher128, SipHasher24};

const FORMAT: &str = "tower-live-updates log";
const VERSION: u32 = 1;
/// The longest first line.
const MAX_HEADER: u64 = 4 * 1024;

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) holds: Holds,
    /// The process that wrote the file.
    pub(super) holder: String,
    /// The number of processes that have used the file, one after the other.
    pub(super) generation: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Holds {
    Log,
    /// A process runs, or has ended without writing its log.
    Claim,
}

impl Header {
    pub(super) fn to_line(&self) -> String {
        let Self { holds, holder, generation } = self;
        json!({"format": FORMAT, "version": VERSION, "holds": holds, "holder": holder, "generation": generation})
            .to_string()
    }

    /// Reads the first line, or returns what is wrong with it.
    fn of(line: &[u8]) -> Result<Self, String> {
        let header: Value = serde_json::from_slice(line).unwrap_or_default();
        if header["format"] != FORMAT {
            return Err("it is no log file".to_owned());
        }
        if header["version"] != VERSION {
            return Err(format!("it is of version {}, and this is version {VERSION}", header["version"]));
        }
        serde_json::from_value(header).map_err(|_| DAMAGED.to_owned())
    }
}

const DAMAGED: &str = "it is truncated or damaged";

/// The first line, and the lines between that and the last.
pub(super) fn decode(content: &[u8]) -> Result<(Header, &[u8]), String> {
    let header_end = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
    let header = Header::of(&content[..header_end])?;
    let lines = content.strip_suffix(b"\n").ok_or(DAMAGED)?;
    let last_at = lines.iter().rposition(|byte| *byte == b'\n').ok_or(DAMAGED)? + 1;
    let (before, last) = content.split_at(last_at);
    let mut checked = Checksummed::new(io::sink());
    // A sink takes everything.
    let _ = checked.write_all(before);
    let is_whole = last.trim_ascii_end() == checked.last_line().as_bytes();
    let body = before[header_end + 1..].strip_suffix(b"\n").filter(|_| is_whole);
    body.map(|body| (header, body)).ok_or_else(|| DAMAGED.to_owned())
}

/// Counts and hashes the bytes written.
struct Checksummed<W> {
    inner: W,
    hasher: SipHasher24,
    bytes: u64,
}

impl<W> Checksummed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: SipHasher24::new_with_key(&[0; 16]), bytes: 0 }
    }

    fn last_line(&self) -> String {
        let sum = HEXLOWER.encode(&self.hasher.finish128().as_bytes());
        json!({"bytes": self.bytes, "sum": sum}).to_string()
    }
}

impl<W: Write> Write for Checksummed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.write(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The path of the file, which need not exist.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) path: PathBuf,
    folder: PathBuf,
    /// How the names of files begin that are being written beside this one.
    prefix: OsString,
}

impl Location {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        // A link stays a link: its target is replaced.
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path)?,
            Err(error) => return Err(error),
        };
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it names no file"));
        };
        let mut prefix = name.to_owned();
        prefix.push(".tmp-");
        Ok(Self { folder: folder.to_owned(), prefix, path })
    }

    /// The file's content; `None` where there is no file, or it is empty. A file of more than `limit` bytes is not
    /// read.
    pub(super) fn read(&self, limit: u64) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no ordinary file"));
        }
        let mut content = Vec::with_capacity(usize::try_from(about.len().min(limit)).unwrap_or(0));
        if file.take(limit.saturating_add(1)).read_to_end(&mut content)? as u64 > limit {
            return Ok(Some(Err(format!("it has more than {limit} bytes, which no log of these limits needs"))));
        }
        Ok(Some(content).filter(|content| !content.is_empty()).map(Ok))
    }

    /// The first line of the file, where it can be read.
    pub(super) fn header(&self) -> Option<Header> {
        let mut start = Vec::new();
        File::open(&self.path).ok()?.take(MAX_HEADER).read_to_end(&mut start).ok()?;
        Header::of(start.split(|byte| *byte == b'\n').next()?).ok()
    }

    /// Writes a new file beside the present one; [`Written::install`] replaces that.
    pub(super) fn write(
        &self,
        header: &Header,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Written<'_>> {
        let mut name = self.prefix.clone();
        name.push(&header.holder);
        let written = Written { location: self, path: self.folder.join(name) };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut out = Checksummed::new(BufWriter::with_capacity(64 * 1024, options.open(&written.path)?));
        writeln!(out, "{}", header.to_line())?;
        body(&mut out)?;
        // The body need not end with a line break.
        writeln!(out)?;
        let last = out.last_line();
        writeln!(out, "{last}")?;
        out.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(written)
    }

    /// Removes files that processes left beside this one when they ended while writing.
    pub(super) fn remove_leftovers(&self) {
        let prefix = self.prefix.as_encoded_bytes();
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in files.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix)) {
            // A leftover that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_folder(),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        // Elsewhere a folder cannot be opened.
        if cfg!(unix) { File::open(&self.folder)?.sync_all() } else { Ok(()) }
    }
}

/// A complete file that has not replaced the present one yet.
pub(super) struct Written<'l> {
    location: &'l Location,
    path: PathBuf,
}

impl Written<'_> {
    pub(super) fn install(self) -> io::Result<()> {
        fs::rename(&self.path, &self.location.path)?;
        self.location.sync_folder()
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        // Once installed, it is not there any more.
        let _ = fs::remove_file(&self.path);
    }
}
