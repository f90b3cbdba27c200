//! The folder of one ACME server: the account and its key, certificates with their keys, and the lock of the process that asks
//! for them. A file is there whole or not at all, and only its owner can read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::core::tls::certificate::Certificate;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

#[derive(Clone, Debug)]
pub struct Storage {
    folder: PathBuf,
}

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct StorageLock(#[allow(dead_code)] File);

/// Makes the folder where it is not there. `Err`: one line.
pub fn create_folder(folder: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made.and_then(|()| Storage::new(folder).write(".writable", b""))
        .and_then(|()| fs::remove_file(folder.join(".writable")))
        .map_err(|error| {
            format!("--acme-storage: {} cannot be written: {error}; choose a folder of this user", folder.display())
        })
}

impl Storage {
    pub fn new(folder: &Path) -> Storage {
        Storage { folder: folder.to_owned() }
    }

    /// `None`: another process has it.
    pub fn lock(&self) -> io::Result<Option<StorageLock>> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(self.lock_file())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StorageLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub fn lock_file(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// `None`: there is none with this contact.
    pub fn account(&self, email: Option<&str>) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.account_file(email)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    pub fn account_file(&self, email: Option<&str>) -> PathBuf {
        self.folder.join(match email {
            Some(email) => format!("account-{email}.json"),
            None => "account.json".into(),
        })
    }

    pub fn forget_account(&self, email: Option<&str>) -> io::Result<()> {
        fs::remove_file(self.account_file(email))
    }

    /// `None`: there is none of this name that can be used.
    pub fn certificate(&self, name: &str) -> Option<Certificate> {
        let pem = fs::read(self.folder.join(format!("{name}.pem"))).ok()?;
        Certificate::from_pem(&pem, &pem).ok()
    }

    /// `pair` has chain and key in PEM.
    pub fn save_certificate(&self, name: &str, pair: &str) -> io::Result<()> {
        self.write(&format!("{name}.pem"), pair.as_bytes())
    }

    pub fn save_account(&self, email: Option<&str>, account: &[u8]) -> io::Result<()> {
        let file = self.account_file(email);
        self.write(&file.file_name().unwrap_or_default().to_string_lossy(), account)
    }

    /// Under another name first, so that a crash leaves the old file or the new one.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.folder.join(format!(".{name}.{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&new)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, self.folder.join(name)))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            Scratch(std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_the_owners_whole_and_replaced_whole() {
        let scratch = Scratch::new("acme-storage");
        let folder = scratch.0.join("a/server");
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        let storage = Storage::new(&folder);
        assert_eq!(storage.account(None).unwrap(), None);
        for text in ["first", "second, longer", "3"] {
            storage.save_account(Some("ops@example.com"), text.as_bytes()).unwrap();
            assert_eq!(storage.account(Some("ops@example.com")).unwrap().unwrap(), text.as_bytes());
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&storage.account_file(Some("ops@example.com"))), FILE_MODE);
        assert_eq!((mode(&folder), mode(&scratch.0)), (FOLDER_MODE, FOLDER_MODE));
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["account-ops@example.com.json"], "nothing temporary is left");
    }

    #[test]
    fn one_holds_the_lock_until_it_is_dropped() {
        let scratch = Scratch::new("acme-lock");
        create_folder(&scratch.0).unwrap();
        let storage = Storage::new(&scratch.0);
        let held = storage.lock().unwrap();
        assert!(held.is_some() && storage.lock().unwrap().is_none());
        drop(held);
        assert!(storage.lock().unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let scratch = Scratch::new("acme-file");
        fs::write(&scratch.0, "").unwrap();
        let why = create_folder(&scratch.0.join("server")).unwrap_err();
        assert!(why.contains(&scratch.0.display().to_string()) && why.contains("--acme-storage"), "{why}");
        fs::remove_file(&scratch.0).unwrap();
    }
}
