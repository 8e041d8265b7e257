"""Write files in a thread, one job at a time, and let no error of it pass unnoticed."""

from concurrent.futures import ThreadPoolExecutor


class BackgroundWriter:
    """Runs jobs in a thread, in order. An error of a job is raised by the next call of any method but close.

    enabled: False runs each job at once, where it is submitted.
    """

    def __init__(self, enabled=True):
        self.in_background = enabled
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer") if enabled else None
        self._job = None

    def submit(self, job):
        """Run job() as soon as the one before it is done, for which this waits."""
        self.wait()
        if self._thread is None:
            job()
        else:
            self._job = self._thread.submit(job)

    def check(self):
        """Raise the error of a job that has ended with one; costs next to nothing."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self):
        """Return when all is written."""
        job = self._job
        if job is not None:
            try:
                job.result()
            finally:
                if job.done():  # not if Ctrl-C came first
                    self._job = None

    def close(self):
        """Wait and end the thread; returns an error that has not been raised yet, None if there is none.

        Later jobs are run where they are submitted.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()
        job, self._job = self._job, None
        return None if job is None else job.exception()
