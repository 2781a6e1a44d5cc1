// Everything here adds to pages that work without it.
import { tryAgain } from "./again.js";
import { charts } from "./charts.js";
import { keys } from "./keys.js";
import { live } from "./live.js";
import { menus } from "./menus.js";
import { selections } from "./selection.js";
import { keepTimes } from "./times.js";

keepTimes();
menus();
selections();
keys();
charts();
live();
tryAgain();
