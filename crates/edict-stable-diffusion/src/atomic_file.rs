//! Output files that are complete or not there at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Why an output file cannot be, or was not, written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The path names a directory.
    #[error("{path}: cannot be written, it is a directory: give a file name")]
    IsDirectory {
        /// The output path.
        path: PathBuf,
    },
    /// The directory the file should be in does not exist or is a file.
    #[error("{path}: cannot be written, {directory} is not a directory: create it first")]
    NoDirectory {
        /// The output path.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// The file exists and is marked read-only.
    #[error("{path}: cannot be written, a read-only file has that name: remove it or choose another")]
    ReadOnly {
        /// The output path.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("{path}: cannot be written")]
    Io {
        /// The output path.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// Where the bytes of an output file go.
enum Target {
    /// Into a temporary file in this directory, which is then renamed to the path.
    Rename { directory: PathBuf, path: PathBuf },
    /// Straight there: a device or a pipe must not be replaced by a file.
    Direct,
}

fn target(path: &Path) -> Result<Target, OutputError> {
    let io = |source| OutputError::Io { path: path.to_owned(), source };
    let path = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(OutputError::IsDirectory { path: path.to_owned() }),
        Ok(found) if !found.is_file() => return Ok(Target::Direct),
        Ok(found) if found.permissions().readonly() => {
            return Err(OutputError::ReadOnly { path: path.to_owned() });
        }
        // A link keeps pointing where it did: what it points at is replaced.
        Ok(_) => fs::canonicalize(path).map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        // A component that is a file is reported below, with its name.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => path.to_owned(),
        Err(error) => return Err(io(error)),
    };
    let ends_in_separator = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if path.file_name().is_none() || ends_in_separator {
        return Err(OutputError::IsDirectory { path });
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !directory.is_dir() {
        return Err(OutputError::NoDirectory { path, directory });
    }
    Ok(Target::Rename { directory, path })
}

fn temporary(directory: &Path, path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".edict-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a file made in the plain way has (the umask is taken off), or what the file to be replaced has.
        let mode = fs::metadata(path).map_or(0o666, |found| found.permissions().mode() & 0o777);
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = path;
    builder.tempfile_in(directory)
}

/// Finds out whether [`write_atomically`] could write `path`, without touching a file of that name.
///
/// For use before long work. It makes and removes a temporary file, so that permissions and read-only file systems are
/// found too; a disk that fills up later is not.
///
/// # Errors
/// [`OutputError`] with the reason.
pub fn check_writable(path: &Path) -> Result<(), OutputError> {
    match target(path)? {
        Target::Direct => Ok(()),
        Target::Rename { directory, path } => {
            let made = temporary(&directory, &path).and_then(NamedTempFile::close);
            made.map_err(|source| OutputError::Io { path, source })
        }
    }
}

/// Writes a file under a temporary name in its own directory and renames it when it is complete.
///
/// Until then a file of that name stays as it is; if anything fails it stays for good, and the temporary file is removed. The
/// new file has the permissions of the one it replaces, or those of any new file. A path that is a device or a pipe is
/// written directly.
///
/// # Errors
/// [`OutputError`] if the path cannot be written, or with the error that `write` returns.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), OutputError> {
    let io = |source| OutputError::Io { path: path.to_owned(), source };
    match target(path)? {
        Target::Direct => {
            let mut writer = BufWriter::new(File::options().write(true).open(path).map_err(io)?);
            write(&mut writer).and_then(|()| writer.flush()).map_err(io)
        }
        Target::Rename { directory, path: target } => {
            let file = temporary(&directory, &target).map_err(io)?;
            let mut writer = BufWriter::new(file);
            write(&mut writer).map_err(io)?;
            let file = writer.into_inner().map_err(|error| io(error.into_error()))?;
            file.as_file().sync_all().map_err(io)?;
            file.persist(&target).map_err(|error| io(error.error))?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces_leaving_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.txt");
        for content in ["first", "second"] {
            check_writable(&path).unwrap();
            write_atomically(&path, |writer| writer.write_all(content.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(names(directory.path()), ["out.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.txt");
        let fail = |writer: &mut dyn Write| {
            writer.write_all(b"half")?;
            Err(io::Error::other("out of ideas"))
        };
        let error = write_atomically(&path, fail).unwrap_err();
        assert!(matches!(&error, OutputError::Io { source, .. } if source.to_string() == "out of ideas"));
        assert_eq!(names(directory.path()), Vec::<String>::new());

        fs::write(&path, "old").unwrap();
        write_atomically(&path, fail).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(directory.path()), ["out.txt"]);
    }

    #[test]
    fn says_why_a_path_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let here = |name: &str| directory.path().join(name);
        fs::write(here("file"), "x").unwrap();
        let check = |path: PathBuf| {
            let found = check_writable(&path).unwrap_err();
            assert_eq!(write_atomically(&path, |_| Ok(())).unwrap_err().to_string(), found.to_string());
            found
        };
        assert!(matches!(check(directory.path().to_owned()), OutputError::IsDirectory { .. }));
        assert!(matches!(check(here("new/")), OutputError::IsDirectory { .. }));
        assert!(matches!(check(here("none/out.png")), OutputError::NoDirectory { .. }));
        assert!(matches!(check(here("file/out.png")), OutputError::NoDirectory { .. }));
        assert!(matches!(check(PathBuf::new()), OutputError::IsDirectory { .. }));
        let mut permissions = fs::metadata(here("file")).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(here("file"), permissions).unwrap();
        assert!(matches!(check(here("file")), OutputError::ReadOnly { .. }));
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn keeps_permissions_links_and_devices() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let here = |name: &str| directory.path().join(name);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let write = |path: &Path| write_atomically(path, |writer| writer.write_all(b"new")).unwrap();

        fs::write(here("plain"), "x").unwrap();
        write(&here("atomic"));
        assert_eq!(mode(&here("atomic")), mode(&here("plain")), "a new file has the usual permissions");

        fs::set_permissions(here("plain"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink(here("plain"), here("link")).unwrap();
        write(&here("link"));
        assert!(fs::symlink_metadata(here("link")).unwrap().is_symlink());
        assert_eq!(fs::read(here("plain")).unwrap(), b"new");
        assert_eq!(mode(&here("plain")), 0o640);

        write(Path::new("/dev/null"));
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
