"""`python -m sonoray_jobs.cli`: the `sonoray` command where no script of it is on the path."""

from sonoray_jobs.cli.main import main

if __name__ == "__main__":
    main()
