//! What a container may do: the settings, and where they say nothing what suits the image. Pure.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{HostConfig, ImageInspect, Mount, MountType};

use crate::settings::ContainerSettings;

/// A label of Ringway's own image, which the Dockerfile sets.
const OWN_IMAGE: &str = "ringway.image";
/// Where a program expects its secrets, as under compose and swarm.
const SECRETS: &str = "/run/secrets";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// Ringway's: a replica that needs no right at all.
    Own,
    Other,
}

impl ImageKind {
    pub fn of(image: &ImageInspect) -> ImageKind {
        let labels = image.config.as_ref().and_then(|config| config.labels.as_ref());
        match labels.and_then(|labels| labels.get(OWN_IMAGE)) {
            Some(_) => ImageKind::Own,
            None => ImageKind::Other,
        }
    }

    /// What is the default for an image of this kind.
    fn choose<T>(self, own: T, other: T) -> T {
        match self {
            ImageKind::Own => own,
            ImageKind::Other => other,
        }
    }
}

pub fn stop_timeout(settings: &ContainerSettings, image: ImageKind) -> Duration {
    Duration::from_millis(settings.stop_timeout_ms.unwrap_or(image.choose(2_000, 10_000)))
}

/// The part of a container's definition that confines it.
pub fn host_config(settings: &ContainerSettings, image: ImageKind) -> HostConfig {
    let memory_bytes = settings.memory_bytes.unwrap_or(image.choose(256 << 20, 0));
    let memory = (memory_bytes > 0).then(|| i64::try_from(memory_bytes).unwrap_or(i64::MAX));
    let pids = settings.pids.unwrap_or(image.choose(512, 0));
    let new_privileges = settings.new_privileges.unwrap_or(image.choose(false, true));
    let cap_drop = match settings.cap_drop.is_empty() {
        true => image.choose(vec!["ALL".to_owned()], Vec::new()),
        false => settings.cap_drop.clone(),
    };
    HostConfig {
        memory,
        // Equal to `memory`: no swap.
        memory_swap: memory,
        pids_limit: (pids > 0).then_some(i64::from(pids)),
        readonly_rootfs: Some(settings.read_only.unwrap_or(image.choose(true, false))),
        cap_drop: some(cap_drop),
        cap_add: some(settings.cap_add.clone()),
        security_opt: (!new_privileges).then(|| vec!["no-new-privileges".into()]),
        binds: some(settings.volumes.clone()),
        mounts: some(settings.secrets.iter().map(secret).collect()),
        tmpfs: (!settings.tmpfs.is_empty()).then(|| HashMap::from_iter(settings.tmpfs.clone())),
        ..Default::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A mount, not a bind: the engine would create a directory in place of a file that does not exist.
fn secret((name, file): &(String, String)) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(file.clone()),
        target: Some(format!("{SECRETS}/{name}")),
        read_only: Some(true),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_image_is_known_by_its_label() {
        let kind = |config: &str| ImageKind::of(&serde_json::from_str(&format!(r#"{{"Config":{config}}}"#)).unwrap());
        assert_eq!(kind(r#"{"Labels":{"ringway.image":"1"}}"#), ImageKind::Own);
        assert_eq!(kind(r#"{"Labels":{"team":"blue"}}"#), ImageKind::Other);
        assert_eq!(kind("{}"), ImageKind::Other);
    }

    #[test]
    fn our_image_may_do_nothing_and_another_one_what_is_usual() {
        let own = host_config(&ContainerSettings::default(), ImageKind::Own);
        assert_eq!((own.readonly_rootfs, own.memory, own.memory_swap), (Some(true), Some(256 << 20), Some(256 << 20)));
        assert_eq!((own.pids_limit, own.cap_drop, own.cap_add), (Some(512), Some(vec!["ALL".into()]), None));
        assert_eq!(own.security_opt, Some(vec!["no-new-privileges".into()]));
        assert_eq!((own.binds, own.mounts, own.tmpfs, own.privileged), (None, None, None, None));
        let other = host_config(&ContainerSettings::default(), ImageKind::Other);
        assert_eq!(other, HostConfig { readonly_rootfs: Some(false), ..Default::default() });
        let timeout = |image| stop_timeout(&ContainerSettings::default(), image).as_secs();
        assert_eq!((timeout(ImageKind::Own), timeout(ImageKind::Other)), (2, 10));
    }

    #[test]
    fn what_is_set_holds_for_any_image() {
        let settings = ContainerSettings {
            read_only: Some(false),
            tmpfs: vec![("/tmp".into(), "size=64m".into())],
            volumes: vec!["data:/data:ro".into()],
            secrets: vec![("key".into(), "/etc/key".into())],
            cap_drop: vec!["NET_RAW".into()],
            cap_add: vec!["SYS_NICE".into()],
            new_privileges: Some(true),
            memory_bytes: Some(u64::MAX),
            pids: Some(7),
            stop_timeout_ms: Some(500),
            ..ContainerSettings::default()
        };
        let set = host_config(&settings, ImageKind::Own);
        assert_eq!(set, host_config(&settings, ImageKind::Other));
        assert_eq!((set.readonly_rootfs, set.memory, set.pids_limit), (Some(false), Some(i64::MAX), Some(7)));
        assert_eq!((set.cap_drop, set.cap_add), (Some(vec!["NET_RAW".into()]), Some(vec!["SYS_NICE".into()])));
        assert_eq!((set.security_opt, set.binds), (None, Some(vec!["data:/data:ro".into()])));
        assert_eq!(set.tmpfs.unwrap()["/tmp"], "size=64m");
        let mount = set.mounts.unwrap().remove(0);
        assert_eq!((mount.source.unwrap(), mount.target.unwrap()), ("/etc/key".into(), "/run/secrets/key".into()));
        assert_eq!(mount.read_only, Some(true));
        assert_eq!(stop_timeout(&settings, ImageKind::Other), Duration::from_millis(500));
    }
}
