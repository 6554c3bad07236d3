"""What a program does with the lab by proxmoxer, a client of Proxmox that knows nothing of it."""

import sys

from proxmoxer import ProxmoxAPI, ResourceException
from proxmoxer.tools import Tasks

base, secret = sys.argv[1:]
api = ProxmoxAPI("127.0.0.1", user="root@pam", token_name="py", token_value=secret, timeout=30)
# It speaks HTTPS alone, and the lab plain HTTP, as Proxmox' own daemon behind its proxy does.
api._store["base_url"] = f"{base}/api2/json"
node = api.nodes("pve1")


def ended(upid, wanted="OK"):
    """The log of a task that ended as it should."""
    status = Tasks.blocking_status(api, upid, timeout=30, polling_interval=0.02)
    assert status and status["exitstatus"] == wanted, status
    decoded = Tasks.decode_upid(upid)
    assert (decoded["node"], decoded["user"], decoded["type"]) == (status["node"], "root@pam", status["type"]), status
    return Tasks.decode_log(node.tasks(upid).log.get(limit=0))


def refused(call, status, text):
    try:
        call()
    except ResourceException as error:
        assert (error.status_code, error.content.strip()) == (status, text), error
        return error
    raise AssertionError(f"not refused with {status}")


def version_nodes_and_cluster():
    assert api.version.get()["release"] == "9.2"
    assert sorted(row["node"] for row in api.nodes.get()) == ["pve1", "pve2"]
    status = api.cluster.status.get()
    assert next(row for row in status if row["type"] == "cluster")["quorate"] == 1, status
    assert api.cluster.nextid.get() == "100"
    assert [row["storage"] for row in node.storage.get(content="images")] == ["tank"]


def a_vm_from_create_to_delete():
    ended(node.qemu.create(vmid=100, name="web", memory=512, scsi0="tank:1", net0="virtio,bridge=vmbr0", tags="b;a"))
    config = node.qemu(100).config.get()
    assert (config["name"], config["tags"], config["scsi0"]) == ("web", "a;b", "tank:vm-100-disk-0,size=1G"), config
    node.qemu(100).config.put(cores=2, description="two\nlines", digest=config["digest"])
    refused(lambda: node.qemu(100).config.put(cores=3, digest=config["digest"]), 500, "checksum mismatch (file change by other user?)")
    ended(node.qemu(100).status.start.post())
    assert node.qemu(100).status.current.get()["status"] == "running"
    refused(lambda: node.qemu(100).delete(), 500, "VM 100 is running - destroy failed")
    ended(node.qemu(100).status.start.post(), "VM 100 already running")
    ended(node.qemu(100).snapshot.post(snapname="before", description="d"))
    assert {row["name"] for row in node.qemu(100).snapshot.get()} == {"before", "current"}
    ended(node.qemu(100).status.stop.post())
    ended(node.qemu(100).snapshot("before").rollback.post())
    ended(node.qemu(100).snapshot("before").delete())
    ended(node.qemu(100).delete(purge=1))
    refused(lambda: node.qemu(100).config.get(), 500, "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist")


def templates_and_clones():
    ended(node.qemu.create(vmid=200, name="base", scsi0="tank:1"))
    refused(lambda: node.qemu(200).clone.post(newid=201, full=0), 500, "Linked clone feature is not supported for 'tank:vm-200-disk-0' (scsi0)")
    ended(node.qemu(200).template.post())
    log = ended(node.qemu(200).clone.post(newid=201, name="fork"))
    assert "creating a clone of VM 200 with ID 201" in log, log
    assert node.qemu(201).config.get()["scsi0"] == "tank:base-200-disk-0/vm-201-disk-0,size=1G"
    ended(node.qemu(200).delete(), "base volume 'tank:base-200-disk-0' is still in use by linked cloned")
    volumes = [row["volid"] for row in node.storage("tank").content.get(vmid=201)]
    assert volumes == ["tank:base-200-disk-0/vm-201-disk-0"], volumes
    ended(node.qemu(201).delete())
    ended(node.qemu(200).delete())


def tasks_of_a_node():
    rows = node.tasks.get(typefilter="qmclone", source="archive", limit=10)
    assert [row["id"] for row in rows] == ["200"], rows
    assert all(row["status"] != "OK" for row in node.tasks.get(errors=1))
    error = refused(lambda: node.tasks("UPID:pve1:00000001:00000001:5F000000:qmstart:100:root@pam:").status.get(), 400, "Parameter verification failed.")
    assert error.errors == {"upid": "no such task"}, error.errors
    error = refused(lambda: node.qemu.create(vmid=5, colour="red"), 400, "Parameter verification failed.")
    assert set(error.errors) == {"vmid", "colour"}, error.errors


def users_roles_and_tokens():
    api.access.roles.post(roleid="Look", privs="VM.Audit,Pool.Audit")
    api.access.users.post(userid="bob@pve", comment="b")
    api.pools.post(poolid="shop")
    api.access.acl.put(path="/pool/shop", roles="Look", users="bob@pve")
    made = api.access.users("bob@pve").token("t1").post(privsep=0)
    ended(node.qemu.create(vmid=300, pool="shop"))
    ended(node.qemu.create(vmid=301))
    bob = ProxmoxAPI("127.0.0.1", user="bob@pve", token_name="t1", token_value=made["value"])
    bob._store["base_url"] = api._store["base_url"]
    assert [row["vmid"] for row in bob.cluster.resources.get(type="vm")] == [300]
    refused(lambda: bob.nodes("pve1").qemu(301).config.get(), 403, "Permission check failed (/vms/301, VM.Audit)")
    refused(lambda: bob.nodes("pve1").qemu(300).status.start.post(), 403, "Permission check failed (/vms/300, VM.PowerMgmt)")
    assert {row["path"] for row in api.access.acl.get() if row["ugid"] == "bob@pve"} == {"/pool/shop"}
    api.access.users("bob@pve").token("t1").delete()
    refused(lambda: bob.version.get(), 401, "Authentication failed!")


checks = [version_nodes_and_cluster, a_vm_from_create_to_delete, templates_and_clones, tasks_of_a_node, users_roles_and_tokens]
for check in checks:
    check()
    print("passed", check.__name__)
print(f"all of {len(checks)} passed")
