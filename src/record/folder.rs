//! Folders in which no symbolic link is followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags};

/// An open folder; what is below it is reached from here alone.
#[derive(Debug)]
pub struct Folder(OwnedFd);

const PRIVATE: Mode = Mode::RWXU;

impl Folder {
    /// Opens the folder at the top, and makes it for its owner alone where it is missing.
    ///
    /// # Errors
    /// When others may enter it, or it cannot be opened.
    pub fn top(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        if !path.exists() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let folder = Self::foreign(path)?;
        let found = rustix::fs::fstat(&folder.0)?;
        if found.st_mode & 0o077 != 0 {
            let why = format!("others may enter it (mode {:o}); chmod 700", found.st_mode & 0o777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(folder)
    }

    /// Opens the folder at the top as it is, to read in it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn foreign(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A folder in this one.
    ///
    /// # Errors
    /// When there is none, or it is a link.
    pub fn folder(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(&self.0, name.as_ref(), flags, Mode::empty())?))
    }

    /// A folder in this one, made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is a link.
    pub fn make_folder(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        match rustix::fs::mkdirat(&self.0, name.as_ref(), PRIVATE) {
            Ok(()) => self.sync()?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(other) => return Err(other.into()),
        }
        self.folder(name)
    }

    /// A new file for its owner alone.
    ///
    /// # Errors
    /// When there is one of that name already.
    pub fn make_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// A file, for reading.
    ///
    /// # Errors
    /// When there is none, or it is no plain file.
    pub fn file(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlags::RDONLY)
    }

    /// A file, for reading and writing.
    ///
    /// # Errors
    /// As [`Folder::file`].
    pub fn file_to_mend(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlags::RDWR)
    }

    fn open(&self, name: &str, how: OFlags) -> io::Result<File> {
        let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&self.0, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        Ok(file)
    }

    /// Moves a file to another folder, over whatever is there.
    ///
    /// # Errors
    /// As the system says.
    pub fn rename(&self, name: &str, to: &Folder, new: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, name, &to.0, new)?)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// The names in it, sorted; names that are no text are left out.
    ///
    /// # Errors
    /// As the system says.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes its entries durable.
    ///
    /// # Errors
    /// As the system says.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Whether files can be made in it, by its mode and by its mount (access(2)).
    ///
    /// # Errors
    /// As the system says.
    pub fn writable(&self) -> io::Result<()> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::accessat(&self.0, ".", access, AtFlags::empty())?)
    }

    /// How much of its file system is free for us, in thousandths.
    ///
    /// # Errors
    /// As the system says.
    pub fn free_permille(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.0)?;
        Ok(found.f_bavail.saturating_mul(1000) / found.f_blocks.max(1))
    }
}
