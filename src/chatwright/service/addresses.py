"""Where people live: streets with a number, and postcodes that are called so, in English and Chinese.

In a pattern with a group, that is what stands before the address and stays. Public addresses look like private ones.
"""

from __future__ import annotations

import re

from chatwright.service.names import HAN

_WORD = r"(?:[A-Z][A-Za-z'’.-]{0,20}|\d{1,3}(?:st|nd|rd|th))"
_NUMBER = r"\d{1,5}[A-Za-z]?(?:[-/]\d{1,4})?"
_UNIT = r"(?:Apartment|Apt|Flat|Unit|Suite|Room)\.? ?#?[0-9A-Za-z]{1,5}"
_UK = r"[A-Z]{1,2}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{2}"
_ZIP = r"\d{5}(?:-\d{4})?"
_TOWN = r"[A-Z][A-Za-z'’.-]{1,20}(?: [A-Z][A-Za-z'’.-]{1,20}){0,2}"
_REST = rf"(?:,? {_UNIT})?(?:(?:,? {_TOWN}){{0,2}},? (?:[A-Z]{{2}} {_ZIP}|{_UK})(?![0-9A-Za-z]))?"
_STREET = (
    r"(?:(?:Street|Road|Avenue|Lane|Boulevard|Crescent|Highway)(?![A-Za-z])|(?:St|Rd|Ave|Ln|Blvd|Hwy)(?![A-Za-z])\.?)"
)
_OTHER = r"(?:Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Way|Close|Gardens|Parkway|Pkwy|Park|Hill|Row)(?![A-Za-z])"
# "In 2008 Wall Street": a year, and not a house.
_NO_YEAR = (
    r"(?:(?<![Ii]n )(?<![Oo]f )(?<![Bb]y )(?<![Ss]ince )(?<![Uu]ntil )(?<![Aa]fter )(?<![Bb]efore )"
    r"|(?!(?:1[5-9]|20)\d\d ))(?<![Tt]op )"
)

# Characters of a Chinese address: none of those that lead to it or tell of somebody.
_PLACE = rf"(?![我你您他她们們住在是的址于於到寄送给給了])[{HAN}]"
_DOOR = r"(?:\d{0,4}(?:号院|号楼|號樓|[号號院楼樓栋棟幢座层層室户戶]|单元|單元)){0,5}(?:\d{1,5}(?![\d年月日]))?"

ADDRESSES = (
    re.compile(rf"(?<![\w.,$€£/-]){_NO_YEAR}(?:{_UNIT},? )?{_NUMBER},? (?:{_WORD} ){{1,4}}{_STREET}{_REST}"),
    re.compile(
        rf"((?i:\baddress(?: is|:)|\blives? (?:at|on)|\bliving at|\breside at) )(?:{_UNIT},? )?{_NUMBER},? "
        rf"(?:{_WORD} ){{1,4}}{_OTHER}{_REST}"
    ),
    re.compile(rf"((?i:\b(?:post ?code|postal code|zip(?: code)?)(?: is|:)? ))(?:{_UK}|{_ZIP}|\d{{6}})(?![0-9A-Za-z])"),
    re.compile(r"((?:邮编|邮政编码|郵編|郵遞區號)[是为為:： ]{0,3})\d{5,6}(?!\d)"),
    # 北京市海淀区中关村大街27号3号楼501室
    re.compile(
        rf"(?:{_PLACE}){{2,20}}(?:(?<=[路街巷])|(?<=胡同)|(?<=大道))(?:\d{{1,5}}弄)?\d{{1,5}}[号號](?![线線]){_DOOR}"
    ),
    # 幸福小区3栋2单元501室
    re.compile(rf"(?:{_PLACE}){{2,20}}\d{{1,4}}(?:[栋棟幢座]|号楼|號樓)(?:\d{{1,2}}(?:单元|單元))?\d{{1,5}}[室户戶]"),
)
