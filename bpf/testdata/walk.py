"""Run by gdb with a process attached: for each line on descriptor 3 lets the process run until the sampler's signal stops it,
walks the stack of the thread that was, and answers with a line of JSON on descriptor 4:

    {"tid": 1, "pcs": [leaf first], "end": "why gdb saw no further frame"}

or {"ended": "..."} if it stopped for another reason, such as its end. A first line, {}, says that gdb is attached.
"""

import json
import os

import gdb

# What the sampler takes at most is less.
LIMIT = 1500

SETTINGS = """
set debuginfod enabled off
set pagination off
set confirm off
set print thread-events off
set print inferior-events off
set print frame-info location
set backtrace limit unlimited
set backtrace past-main on
set displaced-stepping off
handle all nostop noprint pass
handle SIG33 stop nopass
"""


def walk():
    """Returns the pcs of what is really on the stack, which inlined functions and callers that made a tail call are not."""
    pcs, end = [], "limit"
    # As the sampler has it: one more than where a signal interrupted.
    interrupted = False
    frame = gdb.newest_frame()
    while len(pcs) < LIMIT:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            pcs.append(frame.pc() + interrupted)
            interrupted = frame.type() == gdb.SIGTRAMP_FRAME
        try:
            older = frame.older()
        except gdb.error as e:
            end = str(e)
            break
        if older is None:
            end = gdb.frame_stop_reason_string(frame.unwind_stop_reason())
            break
        frame = older
    return {"tid": gdb.selected_thread().ptid[1], "pcs": pcs, "end": end}


def main():
    last = []
    gdb.events.stop.connect(lambda event: last.append(event))
    for line in SETTINGS.split("\n"):
        gdb.execute(line, to_string=True)
    with os.fdopen(3, "r") as commands, os.fdopen(4, "w") as answers:
        print("{}", file=answers, flush=True)
        for _ in commands:
            last.clear()
            gdb.execute("continue", to_string=True)
            if last and isinstance(last[-1], gdb.SignalEvent) and last[-1].stop_signal == "SIG33":
                answer = walk()
            else:
                answer = {"ended": str(last)}
            print(json.dumps(answer), file=answers, flush=True)


main()
