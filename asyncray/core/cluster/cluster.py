"""The half of a node that belongs to a cluster: its peers and its place among the members, behind one door.

``NodeMachine`` knows nothing of it. The shell makes it when the node joins a cluster, and calls it beside the machine
of the node. A node without a cluster does not import this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray import cluster_messages as m
from asyncray.cluster_words import HOW_ENDED
from asyncray.core.cluster.adoptions import Adoptions
from asyncray.core.cluster.asking_back import ASK_BACK_AGAIN, AskingBack
from asyncray.core.cluster.away_tasks import AwayTasks
from asyncray.core.cluster.cluster_requests import ClusterRequests
from asyncray.core.cluster.cluster_status import ClusterStatuses
from asyncray.core.cluster.far_notices import FarNotices
from asyncray.core.cluster.far_output import FarOutput
from asyncray.core.cluster.feeding import Feeding
from asyncray.core.cluster.garbage import Garbage
from asyncray.core.cluster.goodbyes import Goodbyes
from asyncray.core.cluster.guest_actors import GuestActors
from asyncray.core.cluster.guests import Guests
from asyncray.core.cluster.homes import Homes
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.job_reports import JobReports
from asyncray.core.cluster.known_templates import KnownTemplates
from asyncray.core.cluster.large_objects import LargeObjects
from asyncray.core.cluster.lending import Lending
from asyncray.core.cluster.links import OPEN, Link
from asyncray.core.cluster.locality import Locality
from asyncray.core.cluster.member_groups import MemberGroups
from asyncray.core.cluster.members import LEAVING, MEMBER, Members, OtherNode, Watcher
from asyncray.core.cluster.node_rows import NodeRows
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.placing import Placing
from asyncray.core.cluster.routes import Routes
from asyncray.core.cluster.task_arguments import TaskArguments
from asyncray.core.cluster.waiting_tasks import WaitingTasks
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import LogLine, Restless
from asyncray.core.questions import Answer, Question
from asyncray.core.records import Client, Party

if TYPE_CHECKING:
    from asyncray.cluster_words import ClusterRow, MemberFacts

LONGEST_QUEUE = 8
"""The number of demands that a row names."""

_COMPLAIN_AFTER = 1.0
"""Seconds for which a link must be broken before the node complains to the head, and between two complaints."""

_TICK_ALL_AFTER = 0.4
"""Seconds until all links get a tick again: less than the usual pause between two ticks of the shell."""

INQUIRIES = ("actors", "object", "ping", "waiting")
"""The questions that the head may ask a node."""

_LOG_INFO = 20

PeerHandler = Callable[[Peer, Any], None]


class ClusterMachine(Watcher):
    """A node as a part of a cluster.

    Args:
        machine: the rest of the node.
        facts: those that other nodes get.
        head: the NodeID of the node with the head. None: it is this one, and the shell carries the messages.
    """

    def __init__(self, machine: NodeMachine, facts: MemberFacts, now: float, head: bytes | None) -> None:
        self._machine = machine
        self.outbox = machine.outbox
        self.node = machine.node_id
        # Other nodes by NodeID, from the first need or their first connection until they end.
        self.peers: dict[bytes, Peer] = {}
        number = self.outbox.new_party_number()
        to_head: Party = Party(number)
        if head is not None:
            to_head = Peer(number, head, Link(self.outbox, self.node, head, now, to_head=True))
        self.members = Members(self.outbox, to_head, facts, self._row, self)
        machine.requests.cluster = NodeRows(self.members)
        requests = ClusterRequests(self.node, self.members, machine.work, machine.requests.ask_this_node)
        machine.requests.of_cluster = requests.table
        machine.actors.names = requests.names
        # The head, where it asks what clients may ask.
        self._asking_head = Client(self.outbox.new_party_number(), b"", "observer", 0)
        # Lost or left nodes whose graces have not ended, with their former peers.
        self._graces: dict[bytes, Peer] = {}
        self.imports = Imports(self.outbox, machine.objects, machine.node_id, self._peer_of)
        machine.objects.other_nodes = self.imports
        machine.objects.dead_refs.describe_owner = self._describe_owner
        arguments = machine.work.arguments = TaskArguments(machine.work, machine.scheduler.shapes)
        self.large = LargeObjects(machine, self.imports, arguments, self._peer_of, self._describe)
        arguments.pulls = self.large.pulls
        self.garbage = Garbage(self.outbox, machine.store, machine.clients, self.peers)
        self.lending = Lending(self.outbox, machine.objects)
        self.templates = KnownTemplates(
            self.node, self.outbox, machine.functions, machine.objects, self.imports, machine.jobs, self._peer_of
        )
        self._speak_to_drivers(requests, facts["host"])
        self.groups = MemberGroups(machine, self.members)
        self.placing = Placing(machine.clock, self.node, machine.resources, self.members, machine.bundles)
        self.away = AwayTasks(machine, self.imports, self.templates, self.large, arguments, self._peer_of)
        self.feeding = Feeding(machine, self.away, self.placing, self._peer_of)
        self.guests = Guests(machine, self.imports, self.templates, self.large.values, arguments)
        self.routes = Routes(machine, self.away, self._peer_of)
        requests.killed = self.routes.killed
        self.homes = Homes(machine, self.away, self.routes, self.placing, self._peer_of)
        self.guest_actors = GuestActors(machine, self.guests, self.routes)
        self.adoptions = requests.adoptions = Adoptions(machine, self.imports, head, self._peer_of, self.templates.over)
        self.asking_back = AskingBack(
            self.outbox, machine.scheduler.shapes, self.placing, self.away, self.feeding.lines
        )
        self.feeding.constructors = self.homes.route_constructor
        self.feeding.arguments = arguments
        self.feeding.locality = Locality(self.node, self.large.holders)
        machine.stalls.others = WaitingTasks(self.feeding, self.placing)
        # Kind of a message -> its handler. The machines of the cluster enter theirs.
        self.handlers: dict[int, PeerHandler] = {
            **self._own_handlers(),
            **self._handlers_for_people(),
            **self.large.handlers,
        }
        # When the node next reports broken links to the head.
        self._complain_at = 0.0
        # When all links get a tick next.
        self._tick_all_at = 0.0
        self._now = now

    def __repr__(self) -> str:
        return f"<ClusterMachine {self.node.hex()} {self.members}>"

    def _speak_to_drivers(self, requests: ClusterRequests, host: str) -> None:
        """Makes the machines for jobs, output and notices between nodes and the drivers of other nodes."""
        machine = self._machine
        # Other nodes may learn of this member before the head's answer arrives here, and send jobs of theirs.
        machine.jobs.number_from(range(0))
        machine.jobs.watcher = JobReports(self.node, self.members, self._own_jobs_over)
        jobs, directory = machine.jobs.table, f"{machine.facts.get('session_dir', '')}/logs"
        self.output = FarOutput(self.outbox, jobs, host, directory)
        self.notices = FarNotices(self.outbox, jobs, self._describe)
        self.members.notify_drivers = self.notices.for_own_drivers
        self.goodbyes = Goodbyes(
            self.outbox, machine.clock, jobs, machine.objects.unread, self.output, self.templates, self._peer_of,
            machine.requests.say_goodbye,
        )  # fmt: skip
        requests.table["goodbye"] = self.goodbyes.goodbye
        self.statuses = ClusterStatuses(machine.clock, self.node, self.members, machine.requests.status)
        requests.table["status"] = self.statuses.status

    def _own_jobs_over(self, job_ids: Iterable[bytes]) -> None:
        """Jobs of this node have ended."""
        ended = list(job_ids)
        self.templates.jobs_over(ended)
        self.notices.jobs_over(ended)
        self.goodbyes.jobs_over(ended)

    def _handlers_for_people(self) -> dict[int, PeerHandler]:
        return {
            m.FOR_DRIVER: self.notices.for_driver,
            m.OUTPUT_OF: self.output.output_of,
            m.OUTPUT_READ: self.output.output_read,
            m.LAST_OUTPUT: self.goodbyes.last_output,
            m.LAST_DONE: self.goodbyes.last_done,
            m.NODE_ENDED_FOR: self.notices.node_ended_for,
        }

    def _own_handlers(self) -> dict[int, PeerHandler]:
        imports, lending, templates = self.imports, self.lending, self.templates
        away, guests = self.away, self.guests
        return {
            m.BORROW: lending.borrow,
            m.BORROWED: imports.borrowed,
            m.UNBORROW: lending.unborrow,
            m.RESOLVE: lending.resolve,
            m.JOB_OF: templates.job_of,
            m.FUNCTION_OF: templates.function_of,
            m.TEMPLATE_OF: templates.template_of,
            m.FORGET_OF: templates.forget_of,
            m.RELEASED: templates.released,
            m.TASK: guests.task,
            m.CANCEL_TASK: guests.cancel,
            m.TAKE_BACK: guests.take_back,
            m.CLAIMED: guests.claimed,
            m.RESULT: away.result,
            m.BACK: away.back,
            m.DONE_WITH: away.done_with,
            m.CANCEL_AT_HOME: away.cancelled_elsewhere,
            m.SLOTS: self.feeding.slots_came,
            m.CONSTRUCT_AT: self.guest_actors.construct_at,
            m.SEATED: self.homes.seated,
            m.CONSTRUCTOR_WAITS: self.asking_back.constructor_waits,
            m.END_SEAT: self.guest_actors.end_seat,
            m.CALL_AT: self.guest_actors.call_at,
            m.LOCATE: self.homes.locate,
            m.SEAT_OF: self.routes.seat_of,
            m.FORGET_ACTOR: self.homes.forget_actor,
            m.KILL_ACTOR: self.homes.kill_actor,
            m.ADOPT: self.adoptions.adopt,
            m.ADOPTED: self.adoptions.adopted,
            m.COLLECT: self.garbage.collect,
        }

    def _row(self) -> ClusterRow:
        machine = self._machine
        waiting = sorted(
            ((shape.count, shape.demand) for shape in machine.scheduler.shapes.ready if shape.count), reverse=True
        )
        allocator = machine.store.allocator
        return {
            "available": {name: max(0, amount) for name, amount in machine.resources.available.items()},
            "held": {name: amount for name, amount in machine.resources.for_life.items() if amount},
            "queued": [(demand, count) for count, demand in waiting[:LONGEST_QUEUE]],
            "store_free": allocator.capacity - allocator.used,
            "draining": self.members.state == LEAVING,
        }

    # Peers ------------------------------------------------------------------------------------------------------------

    def peer(self, node: bytes, now: float) -> Peer:
        """Returns the record of another node that has not ended."""
        peer = self.peers.get(node)
        if peer is None:
            link = Link(self.outbox, self.node, node, now)
            peer = self.peers[node] = Peer(self.outbox.new_party_number(), node, link)
        return peer

    def _peer_of(self, node: bytes) -> Peer:
        """Returns the record of any node, living, ended or unknown."""
        peer = self.peers.get(node) or self._graces.get(node)
        if peer is not None:
            return peer
        if node in self.members.ended:
            link = Link(self.outbox, self.node, node, self._now)
            return Peer.ended(self.outbox.new_party_number(), node, link, self.members.ended[node][1])
        peer = self.peer(node, self._now)
        if node not in self.members.table:
            # 1. Another node learns of a member and sends refs of it. 2. This node has not learned of that member yet.
            self.members.ask("member", [node], partial(self._member_is, node))
        return peer

    def _member_is(self, node: bytes, answer: Answer) -> None:
        """The head has answered the question about a node that this node does not know."""
        if answer[0] and answer[1] != "alive" and node in self.peers:
            how = HOW_ENDED.get(answer[1], "was never a member of this cluster")
            self._bury(self.peers.pop(node), f"node {node.hex()} {how}", lambda: None)

    def fenced(self, node: bytes) -> str | None:
        """Returns why a node may not connect any more, or None."""
        ended = self.members.ended.get(node)
        return None if ended is None else f"the cluster has declared this node {ended[0]}: {ended[1]}"

    def receive(self, peer: Peer, messages: Sequence[Any], now: float) -> None:
        """A batch of messages came from another node.

        Raises:
            Exception: the node sent an invalid message; the shell must close its connection.
        """
        if not peer.alive:
            return  # a buried node: its messages change nothing
        self._now = self._machine.now = now
        for message in messages:
            self.handlers[message[0]](peer, message)
        self._machine.settle_lives()

    def receive_from_head(self, messages: Sequence[Any], now: float) -> None:
        """A batch of messages came from the head."""
        self._now = self._machine.now = now
        for message in messages:
            self.members.receive(message, now)

    # Watching ---------------------------------------------------------------------------------------------------------

    def became_member(self, jobs: range) -> None:
        self._machine.jobs.number_from(jobs)

    def member_joined(self, member: OtherNode) -> None:
        facts = member.facts
        self.outbox.do(LogLine(_LOG_INFO, f"node {facts['node'].hex()} at {facts['host']}:{facts['port']} has joined"))

    def member_ended(self, node: bytes, state: str, how: str) -> None:
        self.outbox.do(LogLine(_LOG_INFO, f"node {node.hex()} {HOW_ENDED[state]}: {how}"))
        self.templates.jobs_over(self.members.jobs_of(self.members.past[node]))
        peer = self.peers.pop(node, None)
        if peer is None:
            self.members.settled(node)
            return
        self._graces[node] = peer
        self._bury(peer, self._describe(node), partial(self.members.settled, node))

    def _bury(self, peer: Peer, how: str, settled: Callable[[], None]) -> None:
        jobs = self._machine.jobs.table.items()
        self.templates.jobs_over([job_id for job_id, job in jobs if job.reports_to is peer])
        self.notices.node_ended(peer, how, self.templates.jobs_told(peer))
        self.templates.lost(peer)
        self.output.lost(peer)
        self.goodbyes.lost(peer)
        self.guests.home_lost(peer)
        self.feeding.lost(peer, how)
        self.homes.lost(peer, how)
        self.large.node_lost(peer)
        self.imports.giver_lost(peer, settled)
        peer.bury(how)
        self._machine.settle_lives()

    def _describe(self, node: bytes) -> str:
        member = self.members.table.get(node) or self.members.past.get(node)
        where = "" if member is None else f" at {member.facts['host']}:{member.facts['port']}"
        state, how = self.members.ended.get(node, ("", ""))
        return f"node {node.hex()}{where}" + (f" {HOW_ENDED[state]}: {how}" if state else "")

    def _describe_owner(self, node: bytes) -> str:
        described = self._describe(node)
        if node in self.members.ended:
            return described
        if node in self.members.table:
            return f"{described} does not have it any more"
        return f"{described} is no member of this cluster"

    def grace_over(self, node: bytes) -> None:
        peer = self._graces.pop(node, None)
        if peer is not None:
            for machine in (self.away, self.guests, self.templates, self.imports):
                machine.grace_over(peer)
            self._machine.settle_lives()

    def view_changed(self) -> None:
        self.feeding.view_changed()

    def inquiry_came(self, number: int, method: str, arguments: Sequence[Any]) -> None:
        def reply(answer: Answer) -> None:
            value = answer[1] if answer[0] else list(answer[1:])
            self.outbox.send(self.members.head, (m.INQUIRY_ANSWER, number, answer[0], value))

        question = Question(self._asking_head, reply)
        if method in INQUIRIES:
            self._machine.requests.ask_this_node(question, method, arguments)
        else:
            question.refuse("InternalError", {"message": f"{method!r:.40} is no inquiry."})

    def jobs_over(self, job_ids: Sequence[bytes]) -> None:
        self.templates.jobs_over(job_ids)
        self._machine.settle_lives()

    def must_end(self, why: str) -> None:
        self._machine.stop(f"it is no part of its cluster any more: {why}")

    # Time -------------------------------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """All events of a batch have been handled, and the node has handed out work."""
        if self.large.flush():
            self._machine.flush()
        if self.feeding.flush():
            self.feeding.let_go(self._machine.flush)
        self.asking_back.flush()
        self.guests.flush()
        self.guest_actors.flush()
        self.members.flush(now)

    def tick(self, now: float, late: float) -> None:
        """Some time has passed.

        Args:
            late: seconds by which this tick comes too late, because our own loop did not run.
        """
        self._now = now
        self._tick_links(now, late)
        head = self.members.head
        if isinstance(head, Peer):
            if head.link.broken_since is not None:
                self.members.head_is_away(now - head.link.broken_since)
            elif head.link.state == OPEN:
                self.members.head_is_away(None)
        self.members.tick(now)
        self.asking_back.tick(now)
        self.garbage.tick(now)
        self.goodbyes.tick()
        self.statuses.tick()
        if now >= self._complain_at and self.members.state == MEMBER:
            self._complain_at = now + _COMPLAIN_AFTER
            self._complain(now)

    def _tick_links(self, now: float, late: float) -> None:
        """There may be thousands of links, and ticks of 20 ms: most ticks look only at links that want them."""
        restless = self.outbox.restless
        if late or now >= self._tick_all_at:
            self._tick_all_at = now + _TICK_ALL_AFTER
            head = self.members.head
            links: list[Restless] = [peer.link for peer in self.peers.values()]
            links += [head.link] if isinstance(head, Peer) else []
        else:
            links = list(restless)
        for link in links:
            link.tick(now, late)
        for link in list(restless):
            if link.tick_wanted_at is None:
                del restless[link]

    def _complain(self, now: float) -> None:
        for node, peer in self.peers.items():
            since = peer.link.broken_since
            if since is not None and now - since >= _COMPLAIN_AFTER and node in self.members.table:
                self.outbox.send(self.members.head, (m.COMPLAINT, node, now - since))

    @property
    def tick_wanted_at(self) -> float | None:
        """When ``tick`` should come at the latest. None: at any time."""
        wanted = [link.tick_wanted_at for link in self.outbox.restless]
        wanted.append(self.goodbyes.tick_wanted_at)
        if self.feeding.needs_fast_tick or self.guests.needs_fast_tick:
            wanted.append(self._now + ASK_BACK_AGAIN)
        return min((at for at in wanted if at is not None), default=None)

    def check(self) -> None:
        """Raises AssertionError if an invariant is broken."""
        self.members.check()
        tasks = (self.templates, self.feeding, self.guests, self.routes, self.homes)
        for machine in (self.imports, self.large, *tasks, self.output, self.notices, self.goodbyes):
            machine.check()
        for node, peer in self.peers.items():
            peer.link.check()
            assert peer.link.tick_wanted_at is None or peer.link in self.outbox.restless, f"{peer} will get no tick"
            assert peer.alive, f"{peer} is buried and in the table"
            assert node not in self.members.ended, f"{peer} has ended"
