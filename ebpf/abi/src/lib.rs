//! Fixed-layout records shared by the probes and the agent.
#![no_std]
