// Everything here adds to pages that work without it.
import { confirmations, menus } from "./dialogs.js";
import { keys } from "./keys.js";
import { live } from "./live.js";
import { selections } from "./selection.js";
import { keepTimes } from "./times.js";

keepTimes();
menus();
confirmations();
selections();
keys();
live();
