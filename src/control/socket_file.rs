//! The file of a Unix listener: bound, and removed again. It removes nothing but a socket on which nothing listens, and
//! its own.

use std::fs::{FileType, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Only the owner may connect: a caller of the admin API can start processes or containers.
const MODE: u32 = 0o600;

/// A bound socket's file; dropping it removes the file, unless something else was put in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    removed_on_drop: bool,
}

/// Binds a listener at `path`. `Err` says what lies there and what to do, in one line.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_dead_socket(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = listener.map_err(|error| error.to_string())?;
    let file = SocketFile::new(path).map_err(|error| error.to_string())?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok((listener, file))
}

impl SocketFile {
    fn identify(path: &Path) -> io::Result<SocketFile> {
        let identity = identity(&std::fs::symlink_metadata(path)?);
        Ok(SocketFile { path: path.to_owned(), identity, removed_on_drop: true })
    }

    fn new(path: &Path) -> io::Result<SocketFile> {
        let file = SocketFile::identify(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
        Ok(file)
    }

    /// The file of a listener that a Ringway bound which this one is to replace. It stays that one's until `own`.
    pub fn adopt(path: &Path) -> io::Result<SocketFile> {
        let mut file = SocketFile::identify(path)?;
        file.removed_on_drop = false;
        Ok(file)
    }

    pub fn own(&mut self) {
        self.removed_on_drop = true;
    }

    /// Another process has the listener: the file is that one's.
    pub fn leave(mut self) {
        self.removed_on_drop = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.removed_on_drop
            && std::fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes a socket that an ended process left. Anything else stays, and is named in the error.
fn remove_dead_socket(path: &Path) -> Result<(), String> {
    let file_type = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        // It was removed after the bind was refused.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !file_type.is_socket() {
        return Err(format!("{} is there; remove it or give another path", kind(file_type)));
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(|error| error.to_string()),
        Ok(()) | Err(Errno::AGAIN) => {
            Err("another process listens on that socket; end that process or give another path".into())
        }
        Err(error) => Err(format!(
            "a socket is there, and whether a process listens on it is unknown ({}); remove it or give another path",
            io::Error::from(error)
        )),
    }
}

/// Without waiting: a listener whose queue is full answers `AGAIN`.
fn connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn kind(file_type: FileType) -> &'static str {
    match () {
        () if file_type.is_file() => "a regular file",
        () if file_type.is_dir() => "a directory",
        () if file_type.is_symlink() => "a symbolic link",
        () => "a file that is no socket",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A directory of one test, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let folder = std::env::temp_dir().join(format!("ringway-socket-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Scratch(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("admin.sock")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_socket_is_its_owners_alone_and_its_file_is_removed_on_drop() {
        let scratch = Scratch::new("new");
        let (_listener, file) = bind(&scratch.path()).unwrap();
        assert_eq!(std::fs::metadata(scratch.path()).unwrap().mode() & 0o777, MODE);
        drop(file);
        assert!(!scratch.path().exists());
    }

    #[test]
    fn a_socket_on_which_nothing_listens_is_replaced() {
        let scratch = Scratch::new("dead");
        drop(UnixListener::bind(scratch.path()).unwrap());
        assert!(bind(&scratch.path()).is_ok());
        drop(UnixDatagram::bind(scratch.path()).unwrap());
        assert!(bind(&scratch.path()).is_ok(), "a datagram socket that an ended process left");
    }

    #[test]
    fn a_socket_on_which_a_process_listens_is_refused_and_stays() {
        let scratch = Scratch::new("living");
        let (_listener, _file) = bind(&scratch.path()).unwrap();
        let error = bind(&scratch.path()).unwrap_err();
        assert_eq!(error, "another process listens on that socket; end that process or give another path");
        assert_eq!(connect(&scratch.path()), Ok(()));
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_refused_without_waiting() {
        let scratch = Scratch::new("full");
        let (listener, _file) = bind(&scratch.path()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        while connect(&scratch.path()).is_ok() {}
        assert_eq!(connect(&scratch.path()), Err(Errno::AGAIN));
        assert!(bind(&scratch.path()).unwrap_err().starts_with("another process listens"));
    }

    #[test]
    fn a_socket_of_another_type_in_use_is_refused_and_stays() {
        let scratch = Scratch::new("datagram");
        let _socket = UnixDatagram::bind(scratch.path()).unwrap();
        assert!(bind(&scratch.path()).unwrap_err().starts_with("a socket is there, and whether"));
        assert!(scratch.path().exists());
    }

    #[test]
    fn what_is_no_socket_is_named_and_stays() {
        let scratch = Scratch::new("other");
        let path = scratch.path();
        let refused = |what: &str| {
            assert_eq!(bind(&path).unwrap_err(), format!("{what} is there; remove it or give another path"));
        };
        std::fs::write(&path, "data").unwrap();
        refused("a regular file");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        refused("a directory");
        std::fs::remove_dir(&path).unwrap();

        let target = scratch.0.join("target");
        drop(UnixListener::bind(&target).unwrap());
        std::os::unix::fs::symlink(&target, &path).unwrap();
        refused("a symbolic link");
        assert!(target.exists() && path.is_symlink());
        std::fs::remove_file(&path).unwrap();

        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        refused("a file that is no socket");
    }

    #[test]
    fn a_file_put_in_the_sockets_place_is_not_removed_on_drop() {
        let scratch = Scratch::new("replaced");
        let (_listener, file) = bind(&scratch.path()).unwrap();
        std::fs::remove_file(scratch.path()).unwrap();
        std::fs::write(scratch.path(), "another's").unwrap();
        drop(file);
        assert!(scratch.path().exists());
    }
}
