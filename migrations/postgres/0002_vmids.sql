-- VM ids that belong to a Machine from before its VM is made until nothing of that number is left on the Hub.

CREATE TABLE vmid_leases (
    hub         TEXT NOT NULL,
    vmid        BIGINT NOT NULL,
    machine_uid TEXT NOT NULL,
    PRIMARY KEY (hub, vmid),
    UNIQUE (hub, machine_uid)
);
