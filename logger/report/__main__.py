"""Write the report of a run again: python -m logger.report saved/log/<name>/<run>."""

import argparse

from logger.report import write_report
from utils.errors import UserError, clean_exit, in_one_line, shown
from utils.runs.checkpoint import newest_run
from utils.runs.run_folder import folders_of

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write report.html into the log folder of a run.")
    parser.add_argument("run", help="folder of a run, saved/models/<name>/<run> or saved/log/<name>/<run>; or 'latest'")
    with clean_exit():
        run = in_one_line(parser).parse_args().run
        newest = newest_run("saved") if run == "latest" else run
        if newest is None:
            raise UserError("latest: there is no run with a checkpoint below saved/; give the folder of a run")
        print(shown(write_report(*folders_of(newest))))
