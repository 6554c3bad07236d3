//! `storage` and its content.

use super::{
    answer::{Answer, Refusal},
    keys,
    node::{Node, STORAGE},
    parameters::{Kind, Parameters},
};
use serde_json::{Value, json};

const TEXT: Kind = Kind::Text(usize::MAX);
const TOTAL: u64 = 1 << 38;

impl Node {
    pub(super) fn storages(parameters: &Parameters) -> Answer {
        parameters.check(
            &[
                ("content", TEXT, false),
                ("enabled", Kind::Flag, false),
                ("format", Kind::Flag, false),
                ("storage", TEXT, false),
                ("target", TEXT, false),
            ],
            |_| None,
        )?;
        let content = parameters.get("content");
        if let Some(content) =
            content.filter(|content| !["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import"].contains(content))
        {
            return Err(Refusal::parameter("content", format!("invalid format - invalid content type '{content}'\n")));
        }
        let wanted = content.is_none_or(|content| matches!(content, "images" | "rootdir"))
            && parameters.get("storage").is_none_or(|name| name == STORAGE);
        let row = json!({ "storage": STORAGE, "type": "zfspool", "content": "images,rootdir", "active": 1, "enabled": 1, "shared": 0,
            "total": TOTAL, "used": 0, "avail": TOTAL, "used_fraction": 0 });
        Ok(Value::from(if wanted { vec![row] } else { vec![] }).into())
    }

    pub(super) async fn content(&self, storage: &str, parameters: &Parameters) -> Answer {
        parameters.check(&[("content", TEXT, false), ("vmid", Kind::Vmid, false)], |_| None)?;
        if storage != STORAGE {
            return Err(Refusal::die(format!("storage '{storage}' does not exist")));
        }
        let images = parameters.get("content").is_none_or(|content| content == "images");
        let owner: Option<u32> = parameters.number("vmid");
        let volumes = self.pool.list().await.map_err(Refusal::die)?;
        let rows = volumes.into_iter().filter_map(|volume| {
            let vmid = keys::owner(&volume.name)?;
            (images && owner.is_none_or(|owner| owner == vmid))
                .then(|| json!({ "volid": format!("{STORAGE}:{}", volume.name), "vmid": vmid, "size": volume.size, "format": "raw", "content": "images" }))
        });
        Ok(rows.collect::<Value>().into())
    }
}
