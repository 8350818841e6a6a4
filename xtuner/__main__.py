from xtuner.cli import main

raise SystemExit(main())
