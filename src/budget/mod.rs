//! Limits as arithmetic: reserve and settle.
