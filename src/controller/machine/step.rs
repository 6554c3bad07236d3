//! What there is to do for a Machine, one thing at a time, and what that speaks of.

use crate::api::checkpoint::Volume;
use crate::proxmox::Node;
use std::collections::BTreeSet;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    AddFinalizer,
    RemoveFinalizer,
    /// Asks for the Machine's deletion: its time after the end is over.
    DeleteSelf,
    AskForBase(Ask),
    /// Asks for a checkpoint of itself, of which there was none for as long as it wants.
    AskForOwn {
        name: String,
    },
    /// Brings its base to the node that it was placed on.
    Copy(Base),
    Lease,
    /// Ends a Machine whose base is not there any more: that is what it is there to find out.
    LookForBase(Base),
    Fork(Base),
    /// With the disks that were forked; or as a clone of a template, with that one's.
    CreateVm {
        disks: u32,
        template: Option<u32>,
    },
    /// One that was seen to be its own: the record of its creation was lost.
    AdoptVm {
        disks: u32,
        template: Option<u32>,
    },
    Start,
    AwaitGuest,
    Personalise,
    PutSource,
    Launch {
        number: u32,
    },
    /// Waits until nothing is on its way to the agent.
    AwaitAnswers,
    /// Off, with its memory.
    Suspend,
    /// On again, from its memory.
    Resume,
    /// The agent of that launch goes on where it was.
    GoOn {
        number: u32,
    },
    DiscardMemory,
    /// Looks at what is on its disks.
    Examine,
    StopAgent,
    Verify,
    KeepBundle,
    /// With it goes what the guest holds, for the checkpoint that is taken next.
    Flush(Option<Ending>),
    ShutDown,
    Capture(Ending),
    /// The disks go to the checkpoint tree and the VM is deleted; the Machine gets others.
    PutAway,
    KeepDisks,
    DestroyDisks,
    DeleteVm,
    EndLease,
    /// The work goes to the repository that its spec names.
    Push,
}

/// Which checkpoint is taken of a Machine that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Suspend,
    /// Before it is put back to another state.
    Restore,
    Final,
}

/// What disks are cloned from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Base {
    /// Name of the Checkpoint; `None` for an image.
    pub checkpoint: Option<String>,
    /// Whose disks they were.
    pub machine_uid: Option<String>,
    pub volumes: Vec<Volume>,
    /// Name of the image, where it is one of the Hub's.
    pub image: Option<String>,
    /// Where the agent worked whose state it is, if that is known.
    pub workspace: Option<String>,
}

impl Base {
    /// Whether all of it was seen on a node.
    pub(super) fn is_on(&self, node: &str) -> bool {
        let copied = |volume: &Volume| volume.copies.iter().any(|copy| copy.node == node && copy.received);
        self.volumes.iter().all(|volume| volume.node == node || copied(volume))
    }

    /// How many disks it has.
    pub(super) fn disks(&self) -> u32 {
        u32::try_from(self.volumes.len()).unwrap_or(u32::MAX)
    }

    /// The template that it is, if so.
    pub(super) fn template(&self) -> Option<u32> {
        self.volumes.first().and_then(|volume| volume.template)
    }

    /// Nodes that have all of it.
    pub(super) fn nodes(&self) -> BTreeSet<Node> {
        let of = |volume: &Volume| {
            let copies = volume.copies.iter().map(|copy| copy.node.clone());
            copies.chain([volume.node.clone()]).collect::<Vec<_>>()
        };
        self.volumes.iter().flat_map(of).filter(|node| self.is_on(node)).map(Node).collect()
    }
}

/// A checkpoint of another Machine that is to be taken for a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub machine: String,
    pub checkpoint: String,
}

impl Step {
    /// Its name, for logs and tests.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "AddFinalizer",
            Self::RemoveFinalizer => "RemoveFinalizer",
            Self::DeleteSelf => "DeleteSelf",
            Self::AskForBase(_) => "AskForBase",
            Self::AskForOwn { .. } => "AskForOwn",
            Self::Copy(_) => "Copy",
            Self::Lease => "Lease",
            Self::LookForBase(_) => "LookForBase",
            Self::Fork(_) => "Fork",
            Self::CreateVm { .. } => "CreateVm",
            Self::AdoptVm { .. } => "AdoptVm",
            Self::Start => "Start",
            Self::AwaitGuest => "AwaitGuest",
            Self::Personalise => "Personalise",
            Self::PutSource => "PutSource",
            Self::Launch { .. } => "Launch",
            Self::AwaitAnswers => "AwaitAnswers",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::GoOn { .. } => "GoOn",
            Self::DiscardMemory => "DiscardMemory",
            Self::Examine => "Examine",
            Self::StopAgent => "StopAgent",
            Self::Verify => "Verify",
            Self::KeepBundle => "KeepBundle",
            Self::Flush(_) => "Flush",
            Self::ShutDown => "ShutDown",
            Self::Capture(Ending::Suspend) => "CaptureSuspend",
            Self::Capture(Ending::Restore) => "CaptureRestore",
            Self::PutAway => "PutAway",
            Self::Capture(Ending::Final) => "CaptureFinal",
            Self::KeepDisks => "KeepDisks",
            Self::DestroyDisks => "DestroyDisks",
            Self::DeleteVm => "DeleteVm",
            Self::EndLease => "EndLease",
            Self::Push => "Push",
        }
    }

    /// What is done, in words for people.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            Self::AddFinalizer | Self::RemoveFinalizer | Self::DeleteSelf => "taking note",
            Self::AskForOwn { .. } => "asking for a checkpoint",
            Self::AskForBase(_) => "asking for a checkpoint to be spawned from",
            Self::Copy(_) => "copying what it is spawned from to its node",
            Self::LookForBase(_) | Self::Lease | Self::Fork(_) | Self::CreateVm { .. } | Self::AdoptVm { .. } => {
                "cloning disks and creating the VM"
            }
            Self::Push => "pushing its work",
            Self::Start | Self::AwaitGuest => "starting the VM",
            Self::Personalise | Self::PutSource | Self::Launch { .. } => "launching the agent",
            Self::AwaitAnswers => "waiting until its agent has the answer that is on its way",
            Self::Suspend => "saving its memory",
            Self::Resume | Self::GoOn { .. } => "going on from its memory",
            Self::DiscardMemory => "giving up its memory",
            Self::Examine => "looking at what is on its disks",
            Self::StopAgent => "stopping the agent",
            Self::Verify => "running the verify command",
            Self::KeepBundle | Self::Flush(_) | Self::ShutDown => "shutting the VM down",
            Self::Capture(_) => "taking the checkpoint",
            Self::PutAway | Self::KeepDisks | Self::DestroyDisks => "putting the disks away",
            Self::DeleteVm | Self::EndLease => "deleting the VM",
        }
    }
}
