"""The table of methods, which the dispatch and the OpenRPC document follow."""

from collections.abc import Mapping
from typing import Any, Final

from node.methods import events, evidence, members, peers, proofs, reads, submits
from node.methods.backend import NodeStatus
from node.methods.method import Method
from node.methods.service import Service
from node.methods.views import HeaderView, TransactionView
from node.openrpc import document
from node.rpc_access import Role


async def rpc_discover(service: Service, _: reads.NoParams) -> dict[str, Any]:
    """This interface as an OpenRPC document."""
    return document(METHODS.values(), service.backend.status().version)


_METHODS: Final = (
    Method("node_status", Role.READ, reads.NoParams, NodeStatus, reads.node_status),
    Method("node_peers", Role.READ, reads.NoParams, peers.PeersView, peers.node_peers),
    Method("chain_head", Role.READ, reads.NoParams, HeaderView, reads.chain_head),
    Method("block_get", Role.READ, reads.BlockGet, reads.BlockView, reads.block_get),
    Method("transaction_get", Role.READ, reads.ById, TransactionView, reads.transaction_get),
    Method("record_get", Role.READ, reads.ById, reads.RecordView, reads.record_get),
    Method("person_get", Role.READ, reads.ById, reads.PersonView, reads.person_get),
    Method("grant_get", Role.READ, reads.ById, reads.GrantView, reads.grant_get),
    Method("record_history", Role.AUDIT, reads.HistoryGet, reads.HistoryView, reads.record_history),
    Method("person_history", Role.AUDIT, reads.HistoryGet, reads.HistoryView, reads.person_history),
    Method(
        "institution_history",
        Role.AUDIT,
        reads.InstitutionHistoryGet,
        reads.HistoryView,
        reads.institution_history,
    ),
    Method(
        "institution_list",
        Role.READ,
        reads.NoParams,
        reads.InstitutionsView,
        reads.institution_list,
    ),
    Method("member_list", Role.READ, reads.NoParams, members.MembersView, members.member_list),
    Method(
        "proposal_list",
        Role.READ,
        members.ProposalList,
        members.ProposalsView,
        members.proposal_list,
    ),
    Method("proposal_get", Role.READ, reads.ById, members.ProposalView, members.proposal_get),
    Method(
        "evidence_list",
        Role.READ,
        evidence.EvidenceList,
        evidence.EvidenceListView,
        evidence.evidence_list,
    ),
    Method("evidence_get", Role.READ, reads.ById, evidence.HeardView, evidence.evidence_get),
    Method("genesis_get", Role.READ, reads.NoParams, reads.GenesisView, reads.genesis_get),
    Method(
        "transaction_submit",
        Role.SUBMIT,
        submits.TransactionSubmit,
        submits.SubmissionView,
        submits.transaction_submit,
        by_get=False,
    ),
    Method(
        "transaction_wait",
        Role.READ,
        submits.TransactionWait,
        submits.OutcomesView,
        submits.transaction_wait,
    ),
    Method(
        "proof_transaction",
        Role.AUDIT,
        proofs.ProofTransaction,
        proofs.ProofView,
        proofs.proof_transaction,
    ),
    Method("proof_record", Role.AUDIT, proofs.ProofRecord, proofs.ProofView, proofs.proof_record),
    Method(
        "events_subscribe",
        Role.AUDIT,
        events.EventsSubscribe,
        events.SubscriptionView,
        events.events_subscribe,
        by_get=False,
        by_websocket=True,
    ),
    Method(
        "events_unsubscribe",
        Role.AUDIT,
        events.EventsUnsubscribe,
        events.SubscriptionView,
        events.events_unsubscribe,
        by_get=False,
        by_websocket=True,
    ),
    Method("rpc.discover", Role.READ, reads.NoParams, dict[str, Any], rpc_discover),
)
METHODS: Final[Mapping[str, Method]] = {method.name: method for method in _METHODS}
