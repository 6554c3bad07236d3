"""What a Python program does with the API: typed core kinds, custom objects, the dynamic client, watches, errors."""

import json
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "python"
OURS = ("autovibe.dev", "v1alpha1", NAMESPACE)
config.load_kube_config(sys.argv[1])
core, custom = client.CoreV1Api(), client.CustomObjectsApi()


def machine(name):
    agent = {"type": "Command", "command": ["true"]}
    spec = {"from": {"image": "micro"}, "goal": {"prompt": "Write hello."}, "agent": agent}
    return {"apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name}, "spec": spec}


def config_map(name, value):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data={"k": value})


def refused(call, code, reason):
    """The body of the refusal, which must be a Status of this code and reason."""
    try:
        call()
    except ApiException as error:
        body = json.loads(error.body)
        assert (error.status, body["kind"], body["code"], body["reason"]) == (code, "Status", code, reason), error.body
        return body
    raise AssertionError(f"not refused with {code}")


def typed_core_kinds():
    core.create_namespaced_config_map(NAMESPACE, config_map("typed", "v"))
    refused(lambda: core.create_namespaced_config_map(NAMESPACE, config_map("typed", "v")), 409, "AlreadyExists")
    patched = core.patch_namespaced_config_map("typed", NAMESPACE, {"data": {"k": "w", "j": "x"}})
    assert patched.data == {"k": "w", "j": "x"}, patched.data
    stale = core.read_namespaced_config_map("typed", NAMESPACE)
    core.patch_namespaced_config_map("typed", NAMESPACE, {"metadata": {"labels": {"app": "a"}}})
    refused(lambda: core.replace_namespaced_config_map("typed", NAMESPACE, stale), 409, "Conflict")
    found = core.list_namespaced_config_map(NAMESPACE, label_selector="app in (a)", limit=1)
    assert [item.metadata.name for item in found.items] == ["typed"]
    secret = client.V1Secret(metadata=client.V1ObjectMeta(generate_name="s-"), string_data={"k": "plain"})
    made = core.create_namespaced_secret(NAMESPACE, secret)
    assert made.data == {"k": "cGxhaW4="} and made.metadata.name.startswith("s-"), made
    core.delete_namespaced_config_map("typed", NAMESPACE)
    refused(lambda: core.read_namespaced_config_map("typed", NAMESPACE), 404, "NotFound")


def custom_objects():
    made = custom.create_namespaced_custom_object(*OURS, "machines", machine("custom"))
    assert made["spec"]["resources"] == {"cpu": "1", "memory": "2Gi"}, made
    merged = custom.patch_namespaced_custom_object(*OURS, "machines", "custom", {"spec": {"operatingMode": "Suspended"}})
    assert (merged["spec"]["operatingMode"], merged["metadata"]["generation"]) == ("Suspended", 2), merged
    operations = [{"op": "replace", "path": "/spec/operatingMode", "value": "Running"}]
    patched = custom.patch_namespaced_custom_object(
        *OURS, "machines", "custom", operations, _content_type="application/json-patch+json")
    assert patched["metadata"]["generation"] == 3, patched
    status = custom.patch_namespaced_custom_object_status(*OURS, "machines", "custom", {"status": {"phase": "Waiting"}})
    assert status["status"]["phase"] == "Waiting"
    status["metadata"]["labels"] = {"app": "a"}
    replaced = custom.replace_namespaced_custom_object(*OURS, "machines", "custom", status)
    assert replaced["metadata"]["labels"] == {"app": "a"}
    listed = custom.list_namespaced_custom_object(*OURS, "machines", label_selector="app=a")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["custom"]
    assert custom.delete_namespaced_custom_object(*OURS, "machines", "custom")["status"] == "Success"


def errors_say_what_and_where():
    wrong = machine("wrong")
    wrong["spec"]["operatingMode"] = "Paused"
    body = refused(lambda: custom.create_namespaced_custom_object(*OURS, "machines", wrong), 422, "Invalid")
    assert body["details"]["causes"] == [{
        "reason": "FieldValueNotSupported", "field": "spec.operatingMode",
        "message": 'Unsupported value: "Paused": supported values: "Running", "Suspended"',
    }], body
    wrong["spec"] = dict(machine("wrong")["spec"], bogus=1)
    body = refused(lambda: custom.create_namespaced_custom_object(*OURS, "machines", wrong), 400, "BadRequest")
    assert 'unknown field "spec.bogus"' in body["message"], body
    body = refused(lambda: custom.get_namespaced_custom_object(*OURS, "machines", "nope"), 404, "NotFound")
    assert body["details"] == {"name": "nope", "group": "autovibe.dev", "kind": "machines"}, body


def dynamic_client():
    resources = dynamic.DynamicClient(client.ApiClient()).resources
    machines = resources.get(api_version="autovibe.dev/v1alpha1", kind="Machine")
    made = machines.create(body=machine("dynamic"), namespace=NAMESPACE)
    assert made.spec.goal.prompt == "Write hello." and made.metadata.uid
    merge = "application/merge-patch+json"
    change = {"metadata": {"name": "dynamic"}, "spec": {"operatingMode": "Suspended"}}
    assert machines.patch(body=change, namespace=NAMESPACE, content_type=merge).spec.operatingMode == "Suspended"
    whole = machines.get(name="dynamic", namespace=NAMESPACE)
    whole.spec.operatingMode = "Running"
    assert machines.replace(body=whole, namespace=NAMESPACE).spec.operatingMode == "Running"
    written = machines.status.patch(
        name="dynamic", body={"status": {"phase": "Waiting"}}, namespace=NAMESPACE, content_type=merge)
    assert written.status.phase == "Waiting"
    assert "dynamic" in [item.metadata.name for item in machines.get(namespace=NAMESPACE).items]
    short = resources.get(api_version="v1", kind="ConfigMap")
    short.create(body={"metadata": {"name": "dynamic"}, "data": {"a": "b"}}, namespace=NAMESPACE)
    assert short.get(name="dynamic", namespace=NAMESPACE).data.a == "b"
    for kind in (machines, short):
        kind.delete(name="dynamic", namespace=NAMESPACE)
    hubs = resources.get(api_version="autovibe.dev/v1alpha1", kind="Hub")
    assert not hubs.namespaced and hubs.get().kind == "HubList"


def a_watch_replays_and_goes_on():
    core.create_namespaced_config_map(NAMESPACE, config_map("w1", "1"))

    def change():
        core.create_namespaced_config_map(NAMESPACE, config_map("w2", "1"))
        core.patch_namespaced_config_map("w1", NAMESPACE, {"data": {"k": "2"}})
        core.delete_namespaced_config_map("w2", NAMESPACE)

    seen, changes = [], threading.Thread(target=change)
    events = watch.Watch()
    for event in events.stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=20):
        if not event["object"].metadata.name.startswith("w"):
            continue
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 1:
            changes.start()
        if event["type"] == "DELETED":
            break
    changes.join()
    assert seen == [("ADDED", "w1"), ("ADDED", "w2"), ("MODIFIED", "w1"), ("DELETED", "w2")], seen
    core.delete_namespaced_config_map("w1", NAMESPACE)


def a_watch_resumes_where_a_list_ended():
    core.create_namespaced_config_map(NAMESPACE, config_map("r1", "1"))
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("r2", "1"))
    stream = watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=20)
    assert next(stream)["object"].metadata.name == "r2", "what the list showed is not told again"
    machines = watch.Watch().stream(custom.list_namespaced_custom_object, *OURS, "machines", timeout_seconds=20)
    custom.create_namespaced_custom_object(*OURS, "machines", machine("watched"))
    event = next(machines)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "watched"), event


def leases_and_events():
    spec = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15)
    leases = client.CoordinationV1Api()
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=spec)
    made = leases.create_namespaced_lease(NAMESPACE, lease)
    made.spec.holder_identity = "other"
    assert leases.replace_namespaced_lease("leader", NAMESPACE, made).spec.holder_identity == "other"
    refused(lambda: leases.replace_namespaced_lease("leader", NAMESPACE, made), 409, "Conflict")
    about = client.V1ObjectReference(api_version="autovibe.dev/v1alpha1", kind="Machine", name="watched", namespace=NAMESPACE)
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(generate_name="watched."), involved_object=about, reason="Seen", message="by Python", type="Normal")
    core.create_namespaced_event(NAMESPACE, event)
    found = core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=watched")
    assert [item.message for item in found.items] == ["by Python"]


CASES = [
    typed_core_kinds, custom_objects, errors_say_what_and_where, dynamic_client, a_watch_replays_and_goes_on,
    a_watch_resumes_where_a_list_ended, leases_and_events,
]
failed = 0
for case in CASES:
    try:
        case()
    except Exception:  # each case is told of by itself
        import traceback
        failed += 1
        print(f"--- {case.__name__}\n{traceback.format_exc()}")
print(f"{failed} of {len(CASES)} failed" if failed else f"all of {len(CASES)} passed")
sys.exit(1 if failed else 0)
