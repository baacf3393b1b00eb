"""Attacks that take all there is, or end before the tests.

Each is the code for `TESTS`. Where it says ``return 4``, the attack has succeeded. CAPITALS are filled in.
"""

ENDLESS = {
    "infinite loop": "def f(x):\n while True: pass",
    "infinite loop at import": "while True: pass",
    "loop deaf to signals": """
        import signal
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException: pass
    """,
    "pause": "import signal\ndef f(x):\n signal.pause()",
    "sleep": "import time\ndef f(x):\n time.sleep(1000)",
    "channel closed": "import os, time\ndef f(x):\n os.closerange(3, 99)\n time.sleep(1000)",
    "fork bomb": """
        import os
        def f(x):
            while True:
                try: os.fork()
                except OSError: pass
    """,
}
ATTACKS = {
    # it takes all there is
    "infinite generator": "import itertools\ndef f(x): return itertools.count()",
    "thread bomb": """
        import threading, time
        def f(x):
            while True: threading.Thread(target=time.sleep, args=(1000,)).start()
    """,
    "memory bomb": "def f(x):\n kept = []\n while True: kept.append(bytearray(10**7))",
    "one huge object": "def f(x): return 'a' * 10**12",
    "recursion": "def f(x): return f(x)",
    "recursion in C": """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __repr__(self): return repr([self])
        def f(x): return repr(A())
    """,
    "ten gigabytes printed": "def f(x):\n for _ in range(10**4): print('x' * 10**6)\n return 4",
    "disk filled by one file": "def f(x):\n open('big', 'wb').write(bytes(10**8))\n return 4",
    "disk filled by many files": """
        def f(x):
            for i in range(1000): open(f'{i}', 'wb').write(bytes(10**6))
            return 4
    """,
    "huge value": "def f(x): return ['x' * 1000] * 10**5",
    "cyclic value": "def f(x):\n v = []\n v.append(v)\n return v",
    "NaN": "def f(x): return float('nan')",
    # it ends before the tests
    **{
        f"{how} {where}": code.format(how)
        for how in (
            "os._exit(0)",
            "sys.exit(0)",
            "quit()",
            "raise_(SystemExit)",
            "os.kill(os.getpid(), 9)",
            "os.abort()",
        )
        for where, code in {
            "at import": "import os, sys, builtins\nraise_ = None\n{}\ndef f(x): return 5",
            "in the call": """
                import os, sys
                def raise_(e): raise e
                def f(x):
                    {}
                    return 5
            """,
        }.items()
    },
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
}
