// Everything here adds to pages that work without it.
import { tryAgain } from "./again.js";
import { charts } from "./charts.js";
import { autoSubmits, confirmations, menus } from "./dialogs.js";
import { keys } from "./keys.js";
import { live } from "./live.js";
import { selections } from "./selection.js";
import { keepTimes } from "./times.js";

keepTimes();
menus();
confirmations();
autoSubmits();
selections();
keys();
charts();
live();
tryAgain();
