//! The Kubernetes resource API over HTTPS.
