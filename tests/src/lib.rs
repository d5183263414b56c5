//! Helpers shared by the CTP-96 integration tests.
