/** The `?` sheet, made of the table that the keys themselves are read from. */

import type { JSX } from "preact";
import { keyName, SHORTCUTS } from "../core/keys";
import { Dialog } from "./widgets";

const HAND = [
  ["Click", "the ball is here, and next"],
  ["Drag", "along the blur streak of a fast ball"],
  ["Wheel, pinch", "zoom"],
  ["Right drag", "move the picture (or two fingers)"],
];

export function ShortcutSheet({ onClose }: { onClose: () => void }): JSX.Element {
  const groups = [...new Set(SHORTCUTS.map((shortcut) => shortcut.group))];
  return (
    <Dialog title="Keys" wide onClose={onClose}>
      <div class="sheet">
        <section>
          <h3>Hand</h3>
          <dl>
            {HAND.map(([what, says]) => (
              <div key={what}>
                <dt>{what}</dt>
                <dd>{says}</dd>
              </div>
            ))}
          </dl>
        </section>
        {groups.map((group) => (
          <section key={group}>
            <h3>{group}</h3>
            <dl>
              {SHORTCUTS.filter((s) => s.group === group && s.says).map((shortcut) => (
                <div key={shortcut.command}>
                  <dt>
                    {shortcut.keys.slice(0, 2).map((key) => (
                      <kbd key={key}>{keyName(key)}</kbd>
                    ))}
                  </dt>
                  <dd>{shortcut.says}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}
