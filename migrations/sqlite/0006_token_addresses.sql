-- Where a Machine's token was used first, by family: an IPv4 address, a network of 64 bits of IPv6.

ALTER TABLE tokens ADD COLUMN ipv4 TEXT;
ALTER TABLE tokens ADD COLUMN ipv6 TEXT;
